/** Schemas that providers send: which are taken, what they find, and that none can stall a check. */
import type { JsonObject } from "@bufbuild/protobuf"
import { describe, expect, it } from "vitest"
import { compileSchema, faultIn } from "./checker.ts"

const text = { type: "string" }

function object(properties: JsonObject, more: JsonObject = {}): JsonObject {
  return { type: "object", properties, ...more }
}

describe("a schema that is taken", () => {
  const taken: readonly [string, JsonObject][] = [
    ["is empty but for its type", { type: "object" }],
    [
      "names its dialect",
      { $schema: "https://json-schema.org/draft/2020-12/schema", type: "object" },
    ],
    ["uses formats", object({ id: { type: "string", format: "uuid" } })],
    ["uses definitions", object({ a: { $ref: "#/$defs/a" } }, { $defs: { a: text } })],
    ["has a property called $ref", object({ $ref: text, $id: text })],
    ["has examples that look like schemas", object({ a: { ...text, default: { $id: "x" } } })],
    ["contains itself", object({ a: { $ref: "#" } })],
    ["has an identifier", object({ a: { $ref: "#/$defs/a" } }, { $id: "x", $defs: { a: text } })],
    [
      "is of draft 7",
      object(
        { a: { type: "array", items: [text], additionalItems: false } },
        { $schema: "http://json-schema.org/draft-07/schema#", dependencies: { a: ["b"] } },
      ),
    ],
    ["is of draft 6", object({}, { $schema: "http://json-schema.org/draft-06/schema#" })],
    ["has remarks of its author", object({ a: { ...text, "x-order": 1 } })],
  ]
  it.each(taken)("%s", (_, schema) => {
    expect(faultIn(schema)).toBeUndefined()
  })
})

describe("a schema that is refused", () => {
  let nested: JsonObject = text
  for (let depth = 0; depth < 40; depth++) nested = object({ a: nested })
  const refs = Object.fromEntries(
    Array.from({ length: 251 }, (_, i) => [`p${i}`, { $ref: "#/$defs/a" }]),
  )
  const patterns = Array.from({ length: 201 }, (_, i) => ({ pattern: `^a${i}$` }))
  const refused: readonly [string, JsonObject, RegExp][] = [
    ["is of no object", { type: "string" }, /must be "object"/],
    ["has no type", {}, /must be "object"/],
    ["is too large", object({ a: { ...text, description: "x".repeat(70_000) } }), /larger than/],
    ["is too deep", nested, /deeper than 64/],
    [
      "has too many subschemas",
      object({ a: { anyOf: Array.from({ length: 501 }, () => ({})) } }),
      /500 subschemas/,
    ],
    ["has too many references", object(refs, { $defs: { a: text } }), /250 references/],
    ["points outside", object({ a: { $ref: "https://example.com/x" } }), /outside the schema/],
    ["points to a file", object({ a: { $ref: "other.json#/a" } }), /outside the schema/],
    ["points to nothing", object({ a: { $ref: "#/$defs/none" } }), /points to nothing/],
    ["points to no schema", object({ a: { $ref: "#/type" } }), /is no schema/],
    ["uses dynamic references", object({ a: { $dynamicRef: "#x" } }), /\$dynamicRef is refused/],
    ["loops in place", object({}, { allOf: [{ $ref: "#/allOf/0" }] }), /without end/],
    [
      "loops in place over several references",
      object({ a: { $ref: "#/$defs/b" } }, { $defs: { b: { not: { $ref: "#/properties/a" } } } }),
      /without end/,
    ],
    ["has identifiers inside", object({ a: { $id: "x" } }), /properties\/a\/\$id is refused/],
    ["has anchors", object({ a: { $anchor: "x" } }), /\$anchor is refused/],
    ["asks for what Ajv misjudges", object({ a: { unevaluatedItems: false } }), /is refused/],
    [
      "has unevaluated properties beside a condition",
      object({}, { unevaluatedProperties: false, if: object({ a: text }) }),
      /both unevaluatedProperties and if/,
    ],
    ["needs a prototype", object({}, { required: ["__proto__"] }), /__proto__/],
    [
      "names a prototype",
      JSON.parse('{"type":"object","properties":{"__proto__":{}}}'),
      /__proto__/,
    ],
    ["is asynchronous", object({}, { $async: true }), /\$async is refused/],
    [
      "is of another draft",
      object({}, { $schema: "https://json-schema.org/draft/2019-09/schema" }),
      /not draft 2020-12, 7 or 6/,
    ],
    [
      "has a keyword that nobody knows",
      object({ a: { type: "string", lenght: 3 } }),
      /#\/properties\/a\/lenght is an unknown keyword/,
    ],
    [
      "has a keyword of an older draft",
      object({}, { dependencies: { a: ["b"] } }),
      /unknown keyword in draft 2020-12/,
    ],
    [
      "has a format that nobody knows",
      object({ a: { type: "string", format: "colour" } }),
      /unknown format/,
    ],
    ["has a broken type", object({ a: { type: "text" } }), /properties\/a\/type must be/],
    ["has a list for a schema", object({ a: { items: [text] } }), /is no schema/],
    ["has a schema for a list", object({ a: { anyOf: text } }), /no list of schemas/],
    ["has a number for a schema", object({ a: 3 }), /is no schema/],
    ["has a text for a number", object({ a: { minLength: "3" } }), /minLength must be integer/],
    ["has a broken count", object({ a: { minItems: -1 } }), /minItems must be >= 0/],
    ["has a step of nothing", object({ a: { multipleOf: 0 } }), /multipleOf must be > 0/],
    ["has an enum that is no list", object({ a: { enum: "a" } }), /enum must be array/],
    ["needs what is no name", object({}, { required: [1] }), /required\/0 must be string/],
    ["has a pattern that can look around", object({ a: { pattern: "(?=a)b" } }), /looks around/],
    ["has a pattern that grows", object({ a: { pattern: "(a{100}){100}" } }), /repeats too much/],
    ["has too many patterns", object({ a: { anyOf: patterns } }), /more than 200 patterns/],
  ]
  it.each(refused)("%s", (_, schema, message) => {
    expect(faultIn(schema)).toMatch(message)
  })
})

describe("check", () => {
  const schema = object(
    { name: { type: "string", minLength: 1 }, tags: { type: "array", items: text } },
    { required: ["name"], additionalProperties: false },
  )

  it("finds every place, by JSON pointer", () => {
    const faults = compileSchema(schema)({ name: "", tags: ["x", 1], other: true })
    expect(faults.map(({ pointer }) => pointer).sort()).toEqual(["", "/name", "/tags/1"])
    expect(faults.find(({ pointer }) => pointer === "")?.description).toContain('"other"')
    expect(compileSchema(schema)({ name: "x" })).toEqual([])
  })

  it("keeps the patterns of one schema apart", () => {
    const two = object({
      a: { type: "string", pattern: "^a$" },
      b: { type: "string", pattern: "^b$" },
    })
    expect(compileSchema(two)({ a: "a", b: "b" })).toEqual([])
    const faults = compileSchema(two)({ a: "b", b: "a" })
    expect(faults.map(({ pointer }) => pointer)).toEqual(["/a", "/b"])
  })

  it("takes linear time for a pattern that would stall a backtracking engine", () => {
    const evil = object({ a: { type: "string", pattern: "^(a+)+$" } })
    expect(faultIn(evil)).toBeUndefined()
    const began = performance.now()
    expect(compileSchema(evil)({ a: `${"a".repeat(20_000)}!` })).toHaveLength(1)
    expect(performance.now() - began).toBeLessThan(1_000)
  })

  it("does not take a property of every object for one of the value", () => {
    expect(compileSchema(object({}, { required: ["toString"] }))({})).toHaveLength(1)
  })

  it("compares members that have the names of methods", () => {
    const one = object({ a: { enum: [{}] }, b: { const: { valueOf: 1 } } })
    expect(compileSchema(one)({ a: { toString: null }, b: { valueOf: 2 } })).toHaveLength(2)
  })

  it("goes on after a fault, and stops at fifty", () => {
    const list = object({ a: { type: "array", items: text } })
    expect(compileSchema(list)({ a: Array.from({ length: 200 }, (_, i) => i) })).toHaveLength(50)
  })

  it("escapes names in pointers", () => {
    expect(compileSchema(object({ "a/b~c": text }))({ "a/b~c": 1 })[0]?.pointer).toBe("/a~1b~0c")
  })

  it("compares numbers exactly", () => {
    const cents = object({ a: { multipleOf: 0.01 } })
    expect(compileSchema(cents)({ a: 19.99 })).toEqual([])
    expect(compileSchema(cents)({ a: 19.999 })).toHaveLength(1)
    expect(compileSchema(cents)({ a: 0.000000001 })).toHaveLength(1)
  })
})
