/**
 * How two definitions of a tool differ, and whether that breaks something. Pure.
 *
 * 1. Whatever is not known to be harmless is breaking.
 * 2. Texts are breaking, also within schemas: models act by them.
 * 3. Arguments may be asked for less than before, and results may promise more.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { canonicalJson } from "../../../mesh/canonical.ts"

export interface Change {
  readonly kind: "compatible" | "breaking"
  /** JSON Pointer into the definition. */
  readonly path: string
  readonly description: string
}

type Direction = "arguments" | "result"

/** Everything that differs from one definition to another, as Protobuf JSON; versions aside. */
export function changesBetween(from: JsonObject, to: JsonObject): readonly Change[] {
  return [
    ...["title", "description"].flatMap((text) => textChange(from[text], to[text], `/${text}`)),
    ...rank("riskClass", riskOrder, from, to),
    ...(same(from.effect, to.effect) ? [] : [breaking("/effect", "what a repeat does is another")]),
    ...compareSchemas(from.inputSchema, to.inputSchema, "/inputSchema", "arguments"),
    ...outputChanges(from.outputSchema, to.outputSchema),
    ...annotationChanges(objectOf(from.annotations), objectOf(to.annotations)),
    ...usageChanges(objectOf(from.maxUsage), objectOf(to.maxUsage)),
    ...["retry", "defaultTimeout"].flatMap((name) =>
      same(from[name], to[name]) ? [] : [compatible(`/${name}`, "is another")],
    ),
  ]
}

const riskOrder = ["RISK_CLASS_LOW", "RISK_CLASS_MEDIUM", "RISK_CLASS_HIGH"]

function rank(
  name: string,
  order: readonly string[],
  from: JsonObject,
  to: JsonObject,
): readonly Change[] {
  const [before, after] = [from[name], to[name]].map((value) => order.indexOf(String(value)))
  if (before === undefined || after === undefined || before === after) return []
  return after > before
    ? [compatible(`/${name}`, "says more of its danger")]
    : [breaking(`/${name}`, "says less of its danger")]
}

function outputChanges(from: JsonValue | undefined, to: JsonValue | undefined): readonly Change[] {
  if (from === undefined && to === undefined) return []
  const path = "/outputSchema"
  if (to === undefined) return [breaking(path, "results are held to no schema any more")]
  if (from === undefined) return [compatible(path, "results are held to a schema")]
  return compareSchemas(from, to, path, "result")
}

/** The hints of MCP, each with the value that promises more. */
const promises: Readonly<Record<string, boolean>> = {
  readOnlyHint: true,
  destructiveHint: false,
  idempotentHint: true,
  openWorldHint: false,
}

function annotationChanges(from: JsonObject, to: JsonObject): readonly Change[] {
  return changedKeys(from, to).map((key) => {
    const path = `/annotations/${pointer(key)}`
    const promise = promises[key]
    return promise !== undefined && to[key] === promise
      ? compatible(path, "promises more")
      : breaking(path, "promises less, or something else")
  })
}

function usageChanges(from: JsonObject, to: JsonObject): readonly Change[] {
  const isDeclared = Object.keys(from).length > 0
  return changedKeys(from, to).map((key) => {
    const path = `/maxUsage/${pointer(key)}`
    const isMore = Number(to[key] ?? 0) > Number(from[key] ?? 0)
    const isGone = Object.keys(to).length === 0
    return isDeclared && (isMore || isGone)
      ? breaking(path, "may use up more")
      : compatible(path, "says how much it uses up")
  })
}

/** Keywords of numbers that a larger value makes stricter, and those that a smaller one does. */
const lowerBounds = new Set([
  ...["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"],
])
const upperBounds = new Set([
  ...["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"],
])
const texts = new Set(["title", "description", "$comment", "examples"])

function compareSchemas(
  from: JsonValue | undefined,
  to: JsonValue | undefined,
  path: string,
  direction: Direction,
): readonly Change[] {
  if (same(from, to)) return []
  if (!isObject(from) || !isObject(to)) return [breaking(path, "is another schema")]
  return changedKeys(from, to).flatMap((keyword): readonly Change[] => {
    const place = `${path}/${pointer(keyword)}`
    const [before, after] = [from[keyword], to[keyword]]
    if (texts.has(keyword)) return textChange(before, after, place)
    switch (keyword) {
      case "properties":
        return propertyChanges(from, to, place, direction)
      case "required":
        return requiredChanges(listOf(before), listOf(after), from, place, direction)
      case "enum":
      case "type":
        return setChanges(listOf(before), listOf(after), keyword, place, direction)
      case "items":
      case "additionalProperties":
        return isObject(before) && isObject(after)
          ? compareSchemas(before, after, place, direction)
          : [bounded(isNarrower(before, after), place, direction)]
      default:
        if (lowerBounds.has(keyword)) {
          const floor = Number.NEGATIVE_INFINITY
          return [bounded(numberOr(after, floor) > numberOr(before, floor), place, direction)]
        }
        if (upperBounds.has(keyword)) {
          const top = Number.POSITIVE_INFINITY
          return [bounded(numberOr(after, top) < numberOr(before, top), place, direction)]
        }
        return [breaking(place, "is another")] // (1)
    }
  })
}

function propertyChanges(
  from: JsonObject,
  to: JsonObject,
  path: string,
  direction: Direction,
): readonly Change[] {
  const [before, after] = [objectOf(from.properties), objectOf(to.properties)]
  return changedKeys(before, after).flatMap((name): readonly Change[] => {
    const place = `${path}/${pointer(name)}`
    if (!Object.hasOwn(after, name)) return [breaking(place, "is gone")]
    if (Object.hasOwn(before, name)) {
      return compareSchemas(before[name], after[name], place, direction)
    }
    const isRequired = listOf(to.required).includes(name)
    return direction === "arguments" && isRequired
      ? [breaking(place, "is new and required")]
      : [compatible(place, "is new")]
  })
}

function requiredChanges(
  before: readonly JsonValue[],
  after: readonly JsonValue[],
  from: JsonObject,
  path: string,
  direction: Direction,
): readonly Change[] {
  const known = objectOf(from.properties)
  // One that is new is told where it stands, with its property.
  const added = after.filter((name) => !before.includes(name) && Object.hasOwn(known, String(name)))
  const gone = before.filter((name) => !after.includes(name))
  const isArguments = direction === "arguments"
  return [
    ...added.map((name) => (isArguments ? breaking : compatible)(path, `${name} is required`)),
    ...gone.map((name) => (isArguments ? compatible : breaking)(path, `${name} is not required`)),
  ]
}

function setChanges(
  before: readonly JsonValue[],
  after: readonly JsonValue[],
  keyword: string,
  path: string,
  direction: Direction,
): readonly Change[] {
  // Without the keyword, everything is in the set.
  const isNarrower = after.length > 0 && before.some((one) => !has(after, one))
  const isWider =
    before.length > 0 && (after.length === 0 || after.some((one) => !has(before, one)))
  if (isNarrower || (before.length === 0 && after.length > 0)) {
    if (isWider) return [breaking(path, `${keyword} is another`)]
    return [bounded(true, path, direction)]
  }
  return isWider ? [bounded(false, path, direction)] : []
}

/** A change that takes less than before, or more. */
function bounded(isNarrower: boolean, path: string, direction: Direction): Change {
  const isHarmless = isNarrower === (direction === "result")
  const words = isNarrower ? "takes less than before" : "takes more than before"
  return isHarmless ? compatible(path, words) : breaking(path, words)
}

/** For keywords that a schema, or `false`, makes stricter than their absence. */
function isNarrower(before: JsonValue | undefined, after: JsonValue | undefined): boolean {
  const strictness = (value: JsonValue | undefined) =>
    value === false ? 2 : value === undefined || value === true ? 0 : 1
  return strictness(after) > strictness(before)
}

function textChange(
  before: JsonValue | undefined,
  after: JsonValue | undefined,
  path: string,
): readonly Change[] {
  return same(before ?? "", after ?? "") ? [] : [breaking(path, "says something else")] // (2)
}

function changedKeys(from: JsonObject, to: JsonObject): readonly string[] {
  const keys = [...new Set([...Object.keys(from), ...Object.keys(to)])]
  return keys.filter((key) => !same(from[key], to[key]))
}

function same(one: JsonValue | undefined, other: JsonValue | undefined): boolean {
  if (one === other) return true
  if (one === undefined || other === undefined) return false
  return canonicalJson(one) === canonicalJson(other)
}

function has(list: readonly JsonValue[], value: JsonValue): boolean {
  return list.some((one) => same(one, value))
}

function listOf(value: JsonValue | undefined): readonly JsonValue[] {
  if (value === undefined) return []
  return Array.isArray(value) ? value : [value]
}

function objectOf(value: JsonValue | undefined): JsonObject {
  return isObject(value) ? value : {}
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

function numberOr(value: JsonValue | undefined, fallback: number): number {
  return typeof value === "number" ? value : fallback
}

function pointer(key: string): string {
  return key.replaceAll("~", "~0").replaceAll("/", "~1")
}

function breaking(path: string, description: string): Change {
  return { kind: "breaking", path, description }
}

function compatible(path: string, description: string): Change {
  return { kind: "compatible", path, description }
}
