/**
 * The drafts of JSON Schema that are understood, and where each of them keeps schemas in a schema.
 */

export type Draft = "2020-12" | "7" | "6"

export interface Dialect {
  readonly draft: Draft
  /** Keywords whose value is a schema, a list of schemas, or a map of schemas. */
  readonly schemas: ReadonlySet<string>
  readonly lists: ReadonlySet<string>
  readonly maps: ReadonlySet<string>
  /** Keywords that hold a value and assert something of it. */
  readonly assertions: ReadonlySet<string>
  /** In drafts 6 and 7 a schema with `$ref` is that reference and nothing else. */
  readonly refStandsAlone: boolean
}

const latest: Dialect = {
  draft: "2020-12",
  schemas: new Set([
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
    "contentSchema",
  ]),
  lists: new Set(["allOf", "anyOf", "oneOf", "prefixItems"]),
  maps: new Set(["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"]),
  assertions: new Set([
    ...["type", "enum", "const", "required", "dependentRequired"],
    ...["minLength", "maxLength", "pattern", "format"],
    ...["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
    ...["minItems", "maxItems", "uniqueItems", "minContains", "maxContains"],
    ...["minProperties", "maxProperties"],
  ]),
  refStandsAlone: false,
}

const draft6: Dialect = {
  draft: "6",
  schemas: new Set([
    "items",
    "additionalItems",
    "contains",
    "not",
    "additionalProperties",
    "propertyNames",
  ]),
  lists: new Set(["allOf", "anyOf", "oneOf", "items"]),
  maps: new Set(["properties", "patternProperties", "dependencies", "$defs", "definitions"]),
  assertions: without(latest.assertions, ["dependentRequired", "minContains", "maxContains"]),
  refStandsAlone: true,
}

const draft7: Dialect = {
  ...draft6,
  draft: "7",
  schemas: new Set([...draft6.schemas, "if", "then", "else"]),
}

const dialects: Readonly<Record<string, Dialect>> = {
  "https://json-schema.org/draft/2020-12/schema": latest,
  "http://json-schema.org/draft-07/schema": draft7,
  "https://json-schema.org/draft-07/schema": draft7,
  "http://json-schema.org/draft-06/schema": draft6,
  "https://json-schema.org/draft-06/schema": draft6,
}

/** The dialect where a schema does not name its own. */
export const defaultDialect = latest

/** What `$schema` names; undefined for what is not understood. */
export function dialectNamed(name: string): Dialect | undefined {
  const id = name.endsWith("#") ? name.slice(0, -1) : name
  return Object.hasOwn(dialects, id) ? dialects[id] : undefined
}

/** Keywords that say what a schema is, or tell people about it, and assert nothing. */
const silent = new Set([
  ...["$schema", "$id", "$ref", "$comment", "$anchor", "$dynamicAnchor", "$dynamicRef"],
  ...["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"],
  ...["contentEncoding", "contentMediaType"],
])

/** Whether a keyword means something in a dialect; names that begin with `x-` are remarks. */
export function isKeyword(dialect: Dialect, name: string): boolean {
  return (
    silent.has(name) ||
    dialect.assertions.has(name) ||
    dialect.schemas.has(name) ||
    dialect.lists.has(name) ||
    dialect.maps.has(name) ||
    name.startsWith("x-")
  )
}

function without(set: ReadonlySet<string>, names: readonly string[]): ReadonlySet<string> {
  return new Set([...set].filter((name) => !names.includes(name)))
}
