/**
 * What a schema may look like, and how it is given to Ajv.
 *
 * 1. Nothing outside the schema is read: references lead to places in it, and none of them leads
 *    back to where it stands without going into the value.
 * 2. Size, depth, the number of subschemas and of references are bounded, and so is the time that
 *    it takes to compile a schema.
 * 3. What Ajv judges otherwise than the specification is refused, or written so that it does not.
 * 4. Each subschema that Ajv gets says what it costs to look at: in its `$comment`, and by
 *    `$members` where that grows with the members of a value.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { type Dialect, defaultDialect, dialectNamed, isKeyword } from "./dialect.ts"
import { isKnownFormat } from "./format.ts"
import { SchemaRefusal } from "./refusal.ts"

export const maxSchemaBytes = 65_536
const maxDepth = 64
const maxSchemas = 500
const maxReferences = 250
const rootId = "schema:root"

export interface Reading {
  /** Refuses keywords that mean nothing in the schema's draft: they are mistakes, or unenforced. */
  readonly strict: boolean
}

/** A schema that keeps the limits. */
export interface PreparedSchema {
  readonly dialect: Dialect
  /** A copy with an identifier of its own, in which every subschema has its cost as `$comment`. */
  readonly schema: JsonValue
}

/** Stands in a schema that looks at every member of a value, so that each can be paid for. */
export const membersKeyword = "$members"
const goesThroughMembers = [
  ...["patternProperties", "additionalProperties", "propertyNames", "unevaluatedProperties"],
  ...["minProperties", "maxProperties", "items", "additionalItems", "contains"],
]
/** Ajv looks these up beyond the schema, defers them, or does not follow the specification (3). */
const refused = [
  ...["$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$recursiveAnchor"],
  ...["$vocabulary", "$async", "$data", membersKeyword, "unevaluatedItems"],
]
const inPlace = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else"]
const inPlaceMaps = ["dependentSchemas", "dependencies"]

/** Checks a schema, and makes it ready for Ajv. Throws SchemaRefusal. */
export function prepareSchema(sent: JsonValue, reading: Reading): PreparedSchema {
  const text = JSON.stringify(sent)
  if (Buffer.byteLength(text) > maxSchemaBytes) {
    throw new SchemaRefusal(`The schema is larger than ${maxSchemaBytes} bytes.`)
  }
  requireDepth(sent, maxDepth)
  const schema: JsonValue = JSON.parse(text)
  const dialect = dialectOf(schema)
  const walk = new SchemaWalk(schema, dialect, reading)
  walk.visit(schema, "#")
  walk.requireEnd()
  // References to the whole schema need something to be resolved against.
  if (isObject(schema)) schema.$id = rootId
  return { dialect, schema }
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

/** Sees every subschema once, the places that references lead to among them. */
class SchemaWalk {
  readonly #root: JsonValue
  readonly #dialect: Dialect
  readonly #strict: boolean
  readonly #seen = new Map<JsonObject, string>()
  /** Which schemas a schema asks about the same value. */
  readonly #edges = new Map<JsonObject, JsonObject[]>()
  #references = 0
  #hasCondition = false
  #hasUnevaluated = false

  constructor(root: JsonValue, dialect: Dialect, { strict }: Reading) {
    this.#root = root
    this.#dialect = dialect
    this.#strict = strict
  }

  visit(schema: JsonValue, path: string): void {
    if (typeof schema === "boolean") return
    if (!isObject(schema)) throw new SchemaRefusal(`${path} is no schema.`)
    if (this.#seen.has(schema)) return
    if (this.#seen.size >= maxSchemas) {
      throw new SchemaRefusal(`The schema has more than ${maxSchemas} subschemas.`)
    }
    this.#seen.set(schema, path)
    this.#requireKeywords(schema, path)
    this.#requireOwn(schema, path)
    const reference = schema.$ref
    if (reference !== undefined && this.#dialect.refStandsAlone) keepReference(schema)
    for (const [child, childPath, isInPlace] of this.#children(schema, path)) {
      if (isInPlace) this.#edge(schema, child)
      this.visit(child, childPath)
    }
    if (reference !== undefined) this.#follow(schema, reference, path)
    schema.$comment = String(costOf(schema))
    if (goesThroughMembers.some((keyword) => Object.hasOwn(schema, keyword))) {
      schema[membersKeyword] = true
    }
  }

  /** Refuses loops that stay in place (1), and what Ajv forgets beside a condition (3). */
  requireEnd(): void {
    const done = new Set<JsonObject>()
    const open = new Set<JsonObject>()
    const look = (schema: JsonObject): void => {
      if (done.has(schema)) return
      if (open.has(schema)) {
        throw new SchemaRefusal(`${this.#seen.get(schema)} refers to itself without end.`)
      }
      open.add(schema)
      for (const next of this.#edges.get(schema) ?? []) look(next)
      open.delete(schema)
      done.add(schema)
    }
    for (const schema of this.#edges.keys()) look(schema)
    if (this.#hasCondition && this.#hasUnevaluated) {
      throw new SchemaRefusal("The schema has both unevaluatedProperties and if.")
    }
  }

  #requireKeywords(schema: JsonObject, path: string): void {
    for (const keyword of Object.keys(schema)) {
      if (refused.includes(keyword)) {
        throw new SchemaRefusal(`${path}/${keyword} is refused.`)
      }
      if (this.#strict && !isKeyword(this.#dialect, keyword)) {
        const { draft } = this.#dialect
        throw new SchemaRefusal(`${path}/${keyword} is an unknown keyword in draft ${draft}.`)
      }
    }
    const { format } = schema
    if (this.#strict && typeof format === "string" && !isKnownFormat(format)) {
      throw new SchemaRefusal(`${path}/format is an unknown format: ${JSON.stringify(format)}.`)
    }
    this.#hasCondition ||= Object.hasOwn(schema, "if")
    this.#hasUnevaluated ||= Object.hasOwn(schema, "unevaluatedProperties")
  }

  #requireOwn({ $id, $schema, properties, required }: JsonObject, path: string): void {
    if (path !== "#" && $id !== undefined) throw new SchemaRefusal(`${path}/$id is refused.`)
    if (path !== "#" && $schema !== undefined) {
      throw new SchemaRefusal(`${path}/$schema is refused.`)
    }
    const names = Array.isArray(required) ? required : []
    const isPrototype = isObject(properties) && Object.hasOwn(properties, "__proto__")
    if (isPrototype || names.includes("__proto__")) {
      throw new SchemaRefusal(`${path} names a property __proto__.`)
    }
  }

  *#children(schema: JsonObject, path: string): Generator<[JsonValue, string, boolean]> {
    const { schemas, lists, maps } = this.#dialect
    for (const [keyword, value] of Object.entries(schema)) {
      const at = `${path}/${keyword}`
      const isSame = inPlace.includes(keyword) || inPlaceMaps.includes(keyword)
      if (lists.has(keyword) && Array.isArray(value)) {
        for (const [index, child] of value.entries()) yield [child, `${at}/${index}`, isSame]
      } else if (maps.has(keyword) && isObject(value)) {
        for (const [name, child] of Object.entries(value)) {
          if (keyword !== "dependencies" || !Array.isArray(child)) {
            yield [child, `${at}/${name}`, isSame]
          }
        }
      } else if (schemas.has(keyword)) {
        yield [value, at, isSame]
      } else if (lists.has(keyword) || maps.has(keyword)) {
        const expected = lists.has(keyword) ? "list" : "map"
        throw new SchemaRefusal(`${at} is no ${expected} of schemas.`)
      }
    }
  }

  #follow(schema: JsonObject, reference: JsonValue, path: string): void {
    const at = `${path}/$ref`
    if (typeof reference !== "string") throw new SchemaRefusal(`${at} is no string.`)
    if (!/^#(?:\/|$)/.test(reference)) throw new SchemaRefusal(`${at} points outside the schema.`)
    if (++this.#references > maxReferences) {
      throw new SchemaRefusal(`The schema has more than ${maxReferences} references.`)
    }
    const target = resolvePointer(this.#root, decoded(reference.slice(1)))
    if (target === undefined) throw new SchemaRefusal(`${at} points to nothing.`)
    this.#edge(schema, target)
    // What stands below a keyword that nobody knows is a schema only because it is pointed to.
    this.visit(target, reference)
  }

  #edge(from: JsonObject, to: JsonValue): void {
    if (isObject(to)) this.#edges.set(from, [...(this.#edges.get(from) ?? []), to])
  }
}

function dialectOf(schema: JsonValue): Dialect {
  if (!isObject(schema) || schema.$schema === undefined) return defaultDialect
  const { $schema } = schema
  const dialect = typeof $schema === "string" ? dialectNamed($schema) : undefined
  if (dialect === undefined) throw new SchemaRefusal("#/$schema is not draft 2020-12, 7 or 6.")
  return dialect
}

/** In drafts 6 and 7, what stands beside a reference does not count; definitions are pointed to. */
function keepReference(schema: JsonObject): void {
  const kept = ["$ref", "$schema", "$id", "$defs", "definitions"]
  for (const keyword of Object.keys(schema)) if (!kept.includes(keyword)) delete schema[keyword]
}

/** Steps for one look: two for itself, a keyword each, and each name that is asked for. */
function costOf(schema: JsonObject): number {
  let cost = 2
  for (const [keyword, value] of Object.entries(schema)) {
    const isNamed = ["required", "properties", "dependentRequired", "dependencies"].includes(
      keyword,
    )
    cost += isNamed && typeof value === "object" && value !== null ? Object.keys(value).length : 1
  }
  return cost
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function resolvePointer(root: JsonValue, pointer: string): JsonValue | undefined {
  let value: JsonValue | undefined = root
  for (const part of pointer.split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~")
    if (Array.isArray(value)) value = /^\d+$/.test(key) ? value[Number(key)] : undefined
    else if (isObject(value) && Object.hasOwn(value, key)) value = value[key]
    else return undefined
  }
  return value
}

function requireDepth(value: JsonValue, levels: number): void {
  if (typeof value !== "object" || value === null) return
  if (levels === 0) throw new SchemaRefusal(`The schema is nested deeper than ${maxDepth} levels.`)
  for (const member of Object.values(value)) requireDepth(member, levels - 1)
}
