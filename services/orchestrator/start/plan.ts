/**
 * Plans: what makes one valid, and how a step's arguments come about. No I/O.
 *
 * 1. A reference `{"$from": step, "path": pointer}` names an earlier step; everything else in the
 *    arguments is literal.
 * 2. A plan that passes `checkPlan` fails to resolve only where an earlier result has no such
 *    place, or where results are too large.
 * 3. Resolving changes neither the plan nor the results, and never reads an inherited property.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { canonicalJson } from "../../../mesh/canonical.ts"
import { RunwardenError } from "../../../mesh/errors.ts"

export interface PlanStep {
  readonly tool: string
  readonly version: string
  readonly arguments: JsonObject
  readonly onError: "stop" | "continue"
  readonly title: string
  /** Undefined where it may take as long as the run. */
  readonly timeoutMs?: number
}

/** Largest planned arguments of one step, as canonical JSON. */
const maxPlannedBytes = 65_536
/** How deep arguments may be nested. */
export const maxDepth = 32

/** Arguments in their canonical form. */
export interface ArgumentsText {
  readonly text: string
  readonly bytes: number
}

/**
 * The canonical arguments of each step, none of them larger than `maxBytes`. Throws INVALID_PLAN that
 * names the step and the fault where one of them is none.
 */
export function checkPlan(
  steps: readonly Pick<PlanStep, "arguments">[],
  maxBytes: number,
): readonly ArgumentsText[] {
  return steps.map((step, index) => {
    const text = canonicalText(step.arguments, Math.min(maxBytes, maxPlannedBytes), maxDepth)
    const cause = text.kind === "text" ? referenceFault(step.arguments, index) : text.cause
    if (text.kind === "text" && cause === undefined) return text
    const field = `plan.steps[${index}].arguments`
    throw new RunwardenError("INVALID_PLAN", { field, cause: cause ?? "" })
  })
}

/** Whether arguments hold no reference, so that they are final already. */
export function isLiteral(value: JsonValue): boolean {
  if (typeof value !== "object" || value === null) return true
  if (isReference(value)) return false
  return membersOf(value).every(isLiteral)
}

export type Resolution =
  | {
      readonly kind: "resolved"
      readonly arguments: JsonObject
      /** The steps whose results are part of the arguments, in order. */
      readonly provenance: readonly number[]
      /** How large they are as JSON. */
      readonly bytes: number
    }
  | { readonly kind: "unresolved"; readonly cause: string }
  | { readonly kind: "too_large"; readonly bytes: number }

/** Replaces every reference by what it finds in the results of earlier steps. */
export function resolveArguments(
  planned: JsonObject,
  results: ReadonlyMap<number, JsonValue>,
  maxBytes: number,
): Resolution {
  const provenance = new Set<number>()
  try {
    const resolved = resolveValue(planned, results, provenance) as JsonObject
    const text = canonicalText(resolved, maxBytes, maxDepth * 2)
    if (text.kind === "too_large") return text
    if (text.kind === "fault") return { kind: "unresolved", cause: text.cause }
    return {
      kind: "resolved",
      arguments: resolved,
      provenance: [...provenance].sort((a, b) => a - b),
      bytes: text.bytes,
    }
  } catch (error) {
    if (error instanceof Unresolved) return { kind: "unresolved", cause: error.message }
    throw error
  }
}

/** The value that a JSON Pointer (RFC 6901) finds; undefined where there is none. */
export function atPointer(value: JsonValue, pointer: string): JsonValue | undefined {
  if (pointer === "") return value
  let current: JsonValue = value
  for (const part of pointer.slice(1).split("/")) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~")
    if (Array.isArray(current)) {
      const item: JsonValue | undefined = /^(0|[1-9]\d*)$/.test(key)
        ? current[Number(key)]
        : undefined
      if (item === undefined) return undefined
      current = item
    } else if (typeof current === "object" && current !== null && Object.hasOwn(current, key)) {
      const member: JsonValue | undefined = current[key]
      if (member === undefined) return undefined
      current = member
    } else {
      return undefined
    }
  }
  return current
}

class Unresolved extends Error {}

function resolveValue(
  value: JsonValue,
  results: ReadonlyMap<number, JsonValue>,
  provenance: Set<number>,
): JsonValue {
  if (typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) {
    return value.map((item: JsonValue) => resolveValue(item, results, provenance))
  }
  if (!isReference(value)) {
    return Object.fromEntries(
      Object.entries<JsonValue>(value).map(([key, item]) => [
        key,
        resolveValue(item, results, provenance),
      ]),
    )
  }
  const step = Number(value.$from)
  const path = typeof value.path === "string" ? value.path : ""
  const result = results.get(step)
  const found = result === undefined ? undefined : atPointer(result, path)
  if (found === undefined) throw new Unresolved(`step ${step} has nothing at "${path}"`)
  provenance.add(step)
  return found
}

function membersOf(value: JsonObject | JsonValue[]): JsonValue[] {
  return Array.isArray(value) ? value : Object.values(value)
}

function isReference(value: JsonValue): value is JsonObject {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.hasOwn(value, "$from")
  )
}

type CanonicalText =
  | (ArgumentsText & { readonly kind: "text" })
  | { readonly kind: "too_large"; readonly bytes: number; readonly cause: string }
  | { readonly kind: "fault"; readonly cause: string }

function canonicalText(value: JsonObject, maxBytes: number, depth: number): CanonicalText {
  // Depth first: the canonical form is made by recursion.
  if (isDeeperThan(value, depth)) {
    return { kind: "fault", cause: `nested deeper than ${depth} levels` }
  }
  try {
    const text = canonicalJson(value)
    const bytes = Buffer.byteLength(text)
    if (bytes <= maxBytes) return { kind: "text", text, bytes }
    return { kind: "too_large", bytes, cause: `larger than ${maxBytes} bytes` }
  } catch {
    // A lone surrogate, or a number that JSON cannot hold.
    const cause = "no valid JSON: a number or a character in it has no canonical form"
    return { kind: "fault", cause }
  }
}

function isDeeperThan(value: JsonValue, depth: number): boolean {
  if (typeof value !== "object" || value === null) return false
  if (depth === 0) return true
  return membersOf(value).some((item) => isDeeperThan(item, depth - 1))
}

function referenceFault(value: JsonValue, index: number): string | undefined {
  if (typeof value !== "object" || value === null) return undefined
  if (isReference(value)) return faultOfReference(value, index)
  for (const item of membersOf(value)) {
    const fault = referenceFault(item, index)
    if (fault !== undefined) return fault
  }
  return undefined
}

function faultOfReference(reference: JsonObject, index: number): string | undefined {
  const { $from: step, path = "", ...others } = reference
  if (Object.keys(others).length > 0) {
    return `a $from object has "path" and nothing else, not "${Object.keys(others)[0]}"`
  }
  if (typeof step !== "number" || !Number.isInteger(step) || step < 0) {
    return "$from is not the number of a step, counted from 0"
  }
  if (step >= index) return `$from names step ${step}, which is not earlier`
  if (typeof path !== "string") return "path is not a string"
  if (path !== "" && !path.startsWith("/")) return `path "${path}" is no JSON Pointer: no leading /`
  if (/~(?![01])/.test(path)) return `path "${path}" is no JSON Pointer: ~ without 0 or 1`
  return undefined
}
