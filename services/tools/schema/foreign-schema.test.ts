/** Schemas in the words of other languages: what they become, and that the change is told. */
import type { JsonObject } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { compileSchema, faultIn } from "./checker.ts"
import { normaliseSchema } from "./foreign-schema.ts"

const given: JsonObject = {
  type: "dict",
  properties: {
    point: { type: "tuple", items: { type: "float" }, description: "dict and any" },
    count: { type: "Integer" },
    name: { type: "String", optional: true },
    extra: { type: "any" },
    when: { type: "str", nullable: true, enum: ["now", "later"] },
    mixed: { type: ["int", "NoneType", "bool"] },
    default: { type: "boolean", default: { type: "dict" } },
  },
  required: ["point"],
  optional: ["count"],
}

test("types are named as in JSON Schema, where schemas stand and nowhere else", () => {
  const { schema, changes } = normaliseSchema(given)
  expect(schema).toEqual({
    type: "object",
    properties: {
      point: { type: "array", items: { type: "number" }, description: "dict and any" },
      count: { type: "integer" },
      name: { type: "string" },
      extra: {},
      when: { type: ["string", "null"], enum: ["now", "later", null] },
      mixed: { type: ["integer", "NoneType", "boolean"] },
      default: { type: "boolean", default: { type: "dict" } },
    },
    required: ["point"],
  })
  expect(changes).toEqual([
    '#/properties/point/items/type: "float" became "number".',
    '#/properties/point/type: "tuple" became "array".',
    '#/properties/count/type: "Integer" became "integer".',
    '#/properties/name/type: "String" became "string".',
    "#/properties/name/optional: true was taken out.",
    '#/properties/extra/type: "any" was taken out.',
    '#/properties/when/type: "str" became "string".',
    '#/properties/when/nullable: the type became ["string","null"].',
    '#/properties/mixed/type: ["int","NoneType","bool"] became ["integer","NoneType","boolean"].',
    '#/type: "dict" became "object".',
    '#/optional: ["count"] was taken out.',
  ])
})

test("what was given stays as it was", () => {
  const before = structuredClone(given)
  normaliseSchema(given)
  expect(given).toEqual(before)
})

test("what is JSON Schema is not changed", () => {
  const schema: JsonObject = {
    $schema: "http://json-schema.org/draft-07/schema#",
    type: "object",
    properties: {
      type: { type: ["string", "null"] },
      optional: { type: "boolean" },
      list: { type: "array", items: [{ type: "integer" }] },
    },
    dependencies: { list: ["type"] },
    definitions: { any: { enum: ["dict", "any"] } },
  }
  expect(normaliseSchema(schema)).toEqual({ schema, changes: [] })
})

test("a schema that allows anything of several types allows anything", () => {
  const { schema } = normaliseSchema({ type: "dict", properties: { a: { type: ["any", "int"] } } })
  expect(schema.properties).toEqual({ a: {} })
})

describe("what nobody can read stays, and is refused with the schema", () => {
  test.each([
    ["an unknown type", { a: { type: "colour" } }],
    ["an unknown keyword", { a: { type: "float", lenght: 1 } }],
    ["a type that is none", { a: { type: 3 } }],
  ])("%s", (_, properties) => {
    const { schema } = normaliseSchema({ type: "dict", properties })
    expect(faultIn(schema)).toBeDefined()
  })
})

test("a pattern that cannot be used is left to a format that is enforced, and only then", () => {
  const lookAround = "^(?!\\.)[a-z.]+@[a-z.]+$"
  const of = (more: JsonObject) => normaliseSchema({ type: "object", properties: { a: more } })
  const left = of({ type: "string", format: "email", pattern: lookAround })
  expect(left.schema.properties).toEqual({ a: { type: "string", format: "email" } })
  expect(left.changes).toHaveLength(1)
  expect(compileSchema(left.schema)({ a: "no address" })).toHaveLength(1)
  for (const more of [
    { type: "string", format: "email", pattern: "@example\\.com$" },
    { type: "string", format: "password", pattern: lookAround },
    { type: "string", pattern: lookAround },
  ]) {
    expect(of(more)).toEqual({ schema: { type: "object", properties: { a: more } }, changes: [] })
  }
})

test("the rewritten schema is enforced", () => {
  const check = compileSchema(
    normaliseSchema({ type: "dict", properties: { a: { type: "float" } } }).schema,
  )
  expect(check({ a: 1.5 })).toEqual([])
  expect(check({ a: "1.5" })).toHaveLength(1)
})
