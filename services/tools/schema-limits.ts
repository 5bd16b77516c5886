/**
 * What a provider's JSON Schema may look like, so that compiling it and checking a value against it
 * cost a bounded time: bounded size and depth, references inside the schema only, no recursion, and
 * a bounded number of subschemas once every reference is followed.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"

export const maxSchemaBytes = 65_536
const maxDepth = 32
const maxExpandedSchemas = 5_000
const maxUniqueItems = 1_000
const maxPatternLength = 512

/** Keywords that would point outside the schema, defer its check, or make references ambiguous. */
const refusedKeywords = [
  "$id",
  "$anchor",
  "$dynamicAnchor",
  "$dynamicRef",
  "$recursiveRef",
  "$recursiveAnchor",
  "$vocabulary",
  "$async",
  "$data",
]
const dialects = [
  "https://json-schema.org/draft/2020-12/schema",
  "https://json-schema.org/draft/2020-12/schema#",
]
const schemaKeywords = [
  "items",
  "contains",
  "not",
  "if",
  "then",
  "else",
  "additionalProperties",
  "propertyNames",
  "unevaluatedItems",
  "unevaluatedProperties",
]
const listKeywords = ["allOf", "anyOf", "oneOf", "prefixItems"]
const mapKeywords = ["properties", "patternProperties", "dependentSchemas"]
const definitionKeywords = ["$defs", "definitions"]

/** Why the schema is refused, as one sentence that names the place; undefined when it is fine. */
export function faultOfSchema(schema: JsonObject): string | undefined {
  if (JSON.stringify(schema).length > maxSchemaBytes) {
    return `The schema is larger than ${maxSchemaBytes} bytes.`
  }
  if (depthOf(schema) > maxDepth) return `The schema is nested deeper than ${maxDepth} levels.`
  if (schema.type !== "object") return 'The schema is not of an object: "type" must be "object".'
  const walk = new SchemaWalk(schema)
  return walk.fault()
}

/** Follows every subschema once, and every reference with what it stands for. */
class SchemaWalk {
  readonly #root: JsonObject
  readonly #sizes = new Map<JsonObject, number>()
  readonly #open = new Set<JsonObject>()
  #fault: string | undefined

  constructor(root: JsonObject) {
    this.#root = root
  }

  fault(): string | undefined {
    const size = this.#visit(this.#root, "#")
    if (this.#fault === undefined && size > maxExpandedSchemas) {
      return `The schema has more than ${maxExpandedSchemas} subschemas once its references are followed.`
    }
    return this.#fault
  }

  /** The number of subschemas below a schema, itself included. */
  #visit(value: JsonValue | undefined, path: string): number {
    if (!isObject(value) || this.#fault !== undefined) return 1
    const known = this.#sizes.get(value)
    if (known !== undefined) return known
    if (this.#open.has(value))
      return this.#refuse(`${path} refers to itself: recursion is refused.`)
    this.#open.add(value)
    this.#checkKeywords(value, path)
    let size = 1
    for (const [child, childPath] of children(value, path)) size += this.#visit(child, childPath)
    // Definitions count where they are used; here they are only checked.
    for (const [child, childPath] of definitions(value, path)) this.#visit(child, childPath)
    if (typeof value.$ref === "string") size += this.#visitReference(value.$ref, path)
    this.#open.delete(value)
    this.#sizes.set(value, size)
    return size
  }

  #visitReference(reference: string, path: string): number {
    if (!reference.startsWith("#")) {
      return this.#refuse(`${path}/$ref points outside the schema.`)
    }
    const target = resolvePointer(this.#root, reference.slice(1))
    if (target === undefined) return this.#refuse(`${path}/$ref points to nothing.`)
    return this.#visit(target, `${path}/$ref`)
  }

  #checkKeywords(schema: JsonObject, path: string): void {
    for (const keyword of refusedKeywords) {
      if (Object.hasOwn(schema, keyword)) this.#refuse(`${path}/${keyword} is refused.`)
    }
    const { $schema, $ref, uniqueItems, maxItems, pattern, patternProperties } = schema
    if ($schema !== undefined && !dialects.includes(String($schema))) {
      this.#refuse(`${path}/$schema is not draft 2020-12.`)
    }
    if ($ref !== undefined && typeof $ref !== "string") this.#refuse(`${path}/$ref is no string.`)
    if (uniqueItems === true && !(typeof maxItems === "number" && maxItems <= maxUniqueItems)) {
      this.#refuse(`${path}/uniqueItems needs maxItems of at most ${maxUniqueItems}.`)
    }
    const patterns = [
      ...(typeof pattern === "string" ? [pattern] : []),
      ...(isObject(patternProperties) ? Object.keys(patternProperties) : []),
    ]
    if (patterns.some((one) => one.length > maxPatternLength)) {
      this.#refuse(`${path} has a pattern longer than ${maxPatternLength} characters.`)
    }
  }

  #refuse(fault: string): number {
    this.#fault ??= fault
    return 1
  }
}

function* children(schema: JsonObject, path: string): Generator<[JsonValue | undefined, string]> {
  for (const keyword of schemaKeywords) {
    if (Object.hasOwn(schema, keyword)) yield [schema[keyword], `${path}/${keyword}`]
  }
  for (const keyword of listKeywords) {
    const list = schema[keyword]
    if (!Array.isArray(list)) continue
    for (const [index, child] of list.entries()) yield [child, `${path}/${keyword}/${index}`]
  }
  yield* members(schema, mapKeywords, path)
}

function* definitions(
  schema: JsonObject,
  path: string,
): Generator<[JsonValue | undefined, string]> {
  yield* members(schema, definitionKeywords, path)
}

function* members(
  schema: JsonObject,
  keywords: readonly string[],
  path: string,
): Generator<[JsonValue | undefined, string]> {
  for (const keyword of keywords) {
    const map = schema[keyword]
    if (!isObject(map)) continue
    for (const [name, child] of Object.entries(map)) yield [child, `${path}/${keyword}/${name}`]
  }
}

function resolvePointer(root: JsonValue, pointer: string): JsonValue | undefined {
  if (pointer === "") return root
  if (!pointer.startsWith("/")) return undefined
  let value: JsonValue | undefined = root
  for (const part of pointer.slice(1).split("/")) {
    const key = decodeURIComponentSafely(part).replaceAll("~1", "/").replaceAll("~0", "~")
    if (Array.isArray(value)) value = value[Number(key)]
    else if (isObject(value) && Object.hasOwn(value, key)) value = value[key]
    else return undefined
  }
  return value
}

function decodeURIComponentSafely(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function depthOf(value: JsonValue): number {
  if (typeof value !== "object" || value === null) return 0
  let depth = 0
  for (const member of Object.values(value)) depth = Math.max(depth, depthOf(member))
  return depth + 1
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}
