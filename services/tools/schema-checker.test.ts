/** Schemas that providers send: which are taken, what they find, and that none can stall a check. */
import type { JsonObject } from "@bufbuild/protobuf"
import { describe, expect, it } from "vitest"
import { compileSchema, faultIn } from "./schema-checker.ts"

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
    ["bounds its unique items", object({ a: { type: "array", uniqueItems: true, maxItems: 10 } })],
  ]
  it.each(taken)("%s", (_, schema) => {
    expect(faultIn(schema)).toBeUndefined()
  })
})

describe("a schema that is refused", () => {
  const doubling = Object.fromEntries(
    Array.from({ length: 25 }, (_, i) => {
      const ref = { $ref: `#/$defs/d${i + 1}` }
      return [`d${i}`, { allOf: [ref, ref] }]
    }),
  )
  let nested: JsonObject = text
  for (let depth = 0; depth < 20; depth++) nested = object({ a: nested })
  const refused: readonly [string, JsonObject, RegExp][] = [
    ["is of no object", { type: "string" }, /must be "object"/],
    ["has no type", {}, /must be "object"/],
    ["is too large", object({ a: { ...text, description: "x".repeat(70_000) } }), /larger than/],
    ["is too deep", nested, /deeper than/],
    ["points outside", object({ a: { $ref: "https://example.com/x" } }), /outside the schema/],
    ["points to a file", object({ a: { $ref: "other.json#/a" } }), /outside the schema/],
    ["points to nothing", object({ a: { $ref: "#/$defs/none" } }), /points to nothing/],
    ["contains itself", object({ a: { $ref: "#" } }), /recursion/],
    ["loops in place", object({}, { allOf: [{ $ref: "#/allOf/0" }] }), /recursion/],
    [
      "doubles at every level",
      object({ a: { $ref: "#/$defs/d0" } }, { $defs: { ...doubling, d25: text } }),
      /more than/,
    ],
    ["has an id", object({}, { $id: "https://example.com/x" }), /\$id is refused/],
    ["is asynchronous", object({}, { $async: true }), /\$async is refused/],
    ["uses dynamic references", object({ a: { $dynamicRef: "#x" } }), /\$dynamicRef is refused/],
    [
      "is of another draft",
      object({}, { $schema: "http://json-schema.org/draft-07/schema#" }),
      /2020-12/,
    ],
    [
      "has a keyword that nobody knows",
      object({ a: { type: "string", lenght: 3 } }),
      /unknown keyword/,
    ],
    [
      "has a format that nobody knows",
      object({ a: { type: "string", format: "colour" } }),
      /unknown format/,
    ],
    [
      "has a pattern that can run away",
      object({ a: { type: "string", pattern: "(?=a)b" } }),
      /compile/,
    ],
    [
      "has unbounded unique items",
      object({ a: { type: "array", uniqueItems: true } }),
      /uniqueItems/,
    ],
    ["has a broken type", object({ a: { type: "text" } }), /compile/],
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
})
