/**
 * What one answer of a provider's ListTools changes in the registry. Pure.
 *
 * Invariants:
 * 1. A version keeps the definition that it was first taken with: another one under a known version
 *    goes to quarantine, and the known one stays offered.
 * 2. One answer that defines a new version twice and differently defines it not at all.
 * 3. A new name that looks like another one of the same answer is not taken: a known one stays, and
 *    of two new ones neither is.
 */
import { type JsonObject, toJson } from "@bufbuild/protobuf"
import { Effect, RiskClass, ToolDefinitionSchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { looksOf } from "../../../mesh/look-alikes.ts"
import type { AcceptedDefinition, RefusedDefinition } from "./definition.ts"
import type { NewTool, RefusedTool, RiskClass as RiskName, ToolRow } from "./tool-store.ts"

export interface SyncPlan {
  /** New versions, in the order in which they count as first seen. */
  readonly inserts: readonly NewTool[]
  readonly quarantined: readonly NewTool[]
  readonly refused: readonly RefusedTool[]
  readonly offered: readonly { readonly name: string; readonly version: string }[]
}

const maxRefusedShown = 100
const changedDefinition = "The version is known with another definition, which stays in use."
const doubleDefinition = "The version is offered twice, with different definitions."

export function planSync(
  known: readonly Pick<ToolRow, "name" | "version" | "digest">[],
  read: readonly (AcceptedDefinition | RefusedDefinition)[],
): SyncPlan {
  const digests = new Map(known.map((row) => [versionKey(row), row.digest]))
  const inserts: NewTool[] = []
  const quarantined: NewTool[] = []
  const refused: RefusedTool[] = []
  const offered: NewTool[] = []
  const knownNames = new Set(known.map(({ name }) => name))
  const byLooks = namesByLooks(read)

  for (const one of read) if (one.kind === "refused") refused.push(invalid(one, one.message))
  for (const tools of groupedByVersion(read).values()) {
    const [first] = tools
    if (first === undefined) continue
    const digest = digests.get(versionKey(first))
    if (digest === undefined && tools.length > 1) {
      refused.push(...tools.map((tool) => invalid(tool, doubleDefinition))) // (2)
      continue
    }
    const twin = byLooks.get(looksOf(first.name))?.find((name) => name !== first.name)
    if (twin !== undefined && !knownNames.has(first.name)) {
      refused.push(...tools.map((tool) => invalid(tool, `The name looks like ${twin}.`))) // (3)
      continue
    }
    offered.push(first)
    if (digest === undefined) inserts.push(first)
    quarantined.push(...tools.filter((tool) => digest !== undefined && tool.digest !== digest)) // (1)
  }
  for (const tool of quarantined) {
    refused.push({ ...invalid(tool, changedDefinition), kind: "quarantined" })
  }
  inserts.sort(byVersion)
  return {
    inserts,
    quarantined,
    refused: refused.slice(0, maxRefusedShown),
    offered: offered.map(({ name, version }) => ({ name, version })),
  }
}

/** The names of an answer, those together that look alike. */
function namesByLooks(
  read: readonly (AcceptedDefinition | RefusedDefinition)[],
): ReadonlyMap<string, readonly string[]> {
  const names = new Map<string, string[]>()
  for (const one of read) {
    if (one.kind !== "accepted") continue
    const { name } = one.definition
    const alike = names.get(looksOf(name)) ?? []
    if (!alike.includes(name)) names.set(looksOf(name), [...alike, name])
  }
  return names
}

/** The different definitions of each version that can be stored. */
function groupedByVersion(
  read: readonly (AcceptedDefinition | RefusedDefinition)[],
): ReadonlyMap<string, readonly NewTool[]> {
  const groups = new Map<string, NewTool[]>()
  for (const one of read) {
    if (one.kind !== "accepted") continue
    const tool = toNewTool(one)
    const group = groups.get(versionKey(tool)) ?? []
    if (!group.some((held) => held.digest === tool.digest)) group.push(tool)
    groups.set(versionKey(tool), group)
  }
  return groups
}

function toNewTool({ definition, digest }: AcceptedDefinition): NewTool {
  return {
    name: definition.name,
    version: definition.version,
    digest,
    definition: toJson(ToolDefinitionSchema, definition) as JsonObject,
    risk_class: riskName(definition.riskClass),
    effect: effectName(definition.effect),
  }
}

function riskName(risk: RiskClass): RiskName {
  if (risk === RiskClass.LOW) return "low"
  return risk === RiskClass.MEDIUM ? "medium" : "high"
}

function effectName(effect: Effect): NewTool["effect"] {
  if (effect === Effect.READ) return "read"
  return effect === Effect.KEYED ? "keyed" : "unsafe"
}

function invalid(
  { name, version, digest }: Pick<NewTool, "name" | "version" | "digest">,
  message: string,
): RefusedTool {
  return { name, version, kind: "invalid", message, digest }
}

/** A list has no order, so versions that are new at once are seen in the order of their numbers. */
function byVersion(a: NewTool, b: NewTool): number {
  return (
    compare(a.name, b.name) ||
    a.version.localeCompare(b.version, "en", { numeric: true }) ||
    compare(a.version, b.version)
  )
}

function compare(a: string, b: string): number {
  if (a === b) return 0
  return a < b ? -1 : 1
}

function versionKey({
  name,
  version,
}: {
  readonly name: string
  readonly version: string
}): string {
  return `${name}@${version}`
}
