import type { JsonValue } from "@bufbuild/protobuf"
import { expect, test } from "vitest"
import { canonicalJson, digestOf } from "./canonical.ts"

test.each<[string, unknown]>([
  ["undefined", undefined],
  ["NaN", Number.NaN],
  ["Infinity, deep inside", { a: [Number.POSITIVE_INFINITY] }],
  ["a lone surrogate", ["\ud800"]],
  ["a lone surrogate in a key", { "\udc00": 1 }],
  ["a bigint", 1n],
  ["a function", () => 1],
])("%s has no canonical form: TypeError", (_, value) => {
  expect(() => canonicalJson(value as JsonValue)).toThrow(TypeError)
})

test("the order of keys does not matter, and null is not nothing", () => {
  expect(canonicalJson({ b: 1, a: [-0, 1e21, "\u20ac"] })).toBe('{"a":[0,1e+21,"\u20ac"],"b":1}')
  expect(digestOf({ a: null })).not.toBe(digestOf({}))
})
