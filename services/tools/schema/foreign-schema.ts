/**
 * Schemas that are nearly JSON Schema: type names of other languages, and OpenAPI's words for what
 * may be null or left out. They are written as JSON Schema, and each change is told, so that whoever
 * reads the tool sees what its author wrote.
 *
 * 1. Nothing is changed in a schema that is JSON Schema already.
 * 2. A change never leaves a check out that could be made: what has no meaning here stays, and is
 *    refused with the schema.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { type Dialect, defaultDialect, dialectNamed } from "./dialect.ts"
import { isEnforcedFormat } from "./format.ts"
import { isUsablePattern } from "./pattern.ts"

export interface NormalisedSchema {
  readonly schema: JsonObject
  /** What was changed and where, a sentence each. */
  readonly changes: readonly string[]
}

const typeNames: ReadonlyMap<string, string> = new Map(
  Object.entries({
    object: ["dict", "dictionary", "map", "hashmap", "struct", "record"],
    array: ["list", "tuple", "arraylist", "sequence"],
    number: ["float", "double", "decimal", "float32", "float64"],
    integer: ["int", "long", "short", "int32", "int64"],
    string: ["str", "char", "text"],
    boolean: ["bool"],
    null: ["none", "nil"],
  }).flatMap(([name, others]) => [name, ...others].map((other) => [other, name] as const)),
)
/** A value of any type: JSON Schema says so by naming none. */
const anything = new Set(["any", "mixed"])
const maxChanges = 200

/** Writes a schema as JSON Schema. The schema that was given is not changed. */
export function normaliseSchema(given: JsonObject): NormalisedSchema {
  const changes: string[] = []
  const schema: JsonObject = structuredClone(given)
  visit(schema, "#", dialectOf(schema), (change) => {
    if (changes.length < maxChanges) changes.push(change)
  })
  return { schema, changes }
}

type Tell = (change: string) => void

function visit(schema: JsonValue, path: string, dialect: Dialect, tell: Tell): void {
  if (!isObject(schema)) return
  for (const keyword of Object.keys(schema)) {
    const value = schema[keyword]
    if (value === undefined) continue
    const at = `${path}/${keyword}`
    if (dialect.maps.has(keyword) && isObject(value)) {
      for (const [name, child] of Object.entries(value))
        visit(child, `${at}/${name}`, dialect, tell)
    } else if (dialect.lists.has(keyword) && Array.isArray(value)) {
      for (const [index, child] of value.entries()) visit(child, `${at}/${index}`, dialect, tell)
    } else if (dialect.schemas.has(keyword)) {
      visit(value, at, dialect, tell)
    }
  }
  rewriteType(schema, path, tell)
  rewriteNullable(schema, path, tell)
  leaveToFormat(schema, path, tell)
  // Whether a member may be left out is said by `required` of the schema above it.
  if (isFlag(schema.optional)) {
    tell(`${path}/optional: ${JSON.stringify(schema.optional)} was taken out.`)
    delete schema.optional
  }
}

function rewriteType(schema: JsonObject, path: string, tell: Tell): void {
  const { type } = schema
  if (typeof type === "string") {
    const name = normalName(type)
    if (name === type) return
    tell(
      `${path}/type: ${JSON.stringify(type)} ${name === undefined ? "was taken out" : `became ${JSON.stringify(name)}`}.`,
    )
    if (name === undefined) delete schema.type
    else schema.type = name
  } else if (Array.isArray(type)) {
    const names = type.map((one) => (typeof one === "string" ? normalName(one) : one))
    if (names.every((name, index) => name === type[index])) return
    const known = names.filter((name) => name !== undefined)
    const isOpen = known.length < names.length
    tell(
      `${path}/type: ${JSON.stringify(type)} ${isOpen ? "was taken out" : `became ${JSON.stringify([...new Set(known)])}`}.`,
    )
    if (isOpen) delete schema.type
    else schema.type = [...new Set(known)]
  }
}

/** OpenAPI 3.0 says `nullable` beside the type. */
function rewriteNullable(schema: JsonObject, path: string, tell: Tell): void {
  const { nullable, type } = schema
  if (typeof nullable !== "boolean") return
  if (nullable && typeof type === "string" && type !== "null") {
    schema.type = [type, "null"]
    tell(`${path}/nullable: the type became ${JSON.stringify(schema.type)}.`)
    if (Array.isArray(schema.enum) && !schema.enum.includes(null)) schema.enum.push(null)
  } else {
    tell(`${path}/nullable: ${nullable} was taken out.`)
  }
  delete schema.nullable
}

/** Libraries write a format as a pattern too, often one that looks around: the format is enforced. */
function leaveToFormat(schema: JsonObject, path: string, tell: Tell): void {
  const { format, pattern } = schema
  if (typeof format !== "string" || typeof pattern !== "string") return
  if (!isEnforcedFormat(format) || isUsablePattern(pattern)) return
  tell(`${path}/pattern: ${JSON.stringify(pattern)} was left to the format ${format}.`)
  delete schema.pattern
}

/** The name in JSON Schema; the same for one that is unknown, and undefined for anything at all. */
function normalName(type: string): string | undefined {
  const lower = type.toLowerCase()
  return anything.has(lower) ? undefined : (typeNames.get(lower) ?? type)
}

/** A flag, or the names of those that may be left out. */
function isFlag(value: JsonValue | undefined): boolean {
  if (Array.isArray(value)) return value.every((one) => typeof one === "string")
  return typeof value === "boolean" || (typeof value === "string" && value.length <= 8)
}

function dialectOf({ $schema }: JsonObject): Dialect {
  return (typeof $schema === "string" ? dialectNamed($schema) : undefined) ?? defaultDialect
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}
