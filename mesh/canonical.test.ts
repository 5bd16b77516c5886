import type { JsonValue } from "@bufbuild/protobuf"
import canonicalize from "canonicalize"
import fc from "fast-check"
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

test("the quick way writes what the library writes, and throws where it throws", () => {
  const strange = fc.constantFrom<unknown>(
    undefined,
    Number.NaN,
    -0,
    1e21,
    5e-324,
    "\ud800",
    '\u2028\0"\\\u007f',
    { toJSON: () => "x" },
    Object.assign(["a"], { toJSON: () => 1 }),
    new Date(0),
    new Map([[1, 2]]),
    Object("boxed"),
    Object.assign(Object.create(null), { b: 1, a: 2 }),
    () => 1,
    Symbol("s"),
    [undefined, () => 1],
  )
  const key = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("__proto__", "b", "a", "10", "9"),
  )
  const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 4 },
      { weight: 4, arbitrary: fc.jsonValue({ maxDepth: 1 }) },
      { weight: 2, arbitrary: fc.string({ unit: "binary" }) },
      { weight: 2, arbitrary: fc.double() },
      { weight: 1, arbitrary: strange },
      { weight: 4, arbitrary: fc.dictionary(key, tie("tree"), { maxKeys: 5 }) },
      { weight: 3, arbitrary: fc.array(tie("tree"), { maxLength: 4 }) },
    ),
  }))
  const property = fc.property(tree, (value) => {
    expect(outcomeOf(() => canonicalJson(value as JsonValue))).toBe(
      outcomeOf(() => canonicalize(value)),
    )
  })
  fc.assert(property, { seed: 20_260_306, numRuns: 5_000 })
})

test("a deep value and one that holds itself are left to the library", () => {
  let deep: JsonValue = 1
  for (let level = 0; level < 20_000; level += 1) deep = [deep]
  expect(canonicalJson(deep)).toBe(`${"[".repeat(20_000)}1${"]".repeat(20_000)}`)
  const itself: { a?: unknown } = {}
  itself.a = itself
  expect(() => canonicalJson(itself as JsonValue)).toThrow(TypeError)
})

function outcomeOf(write: () => string | undefined): string {
  try {
    return write() ?? "nothing"
  } catch {
    return "nothing"
  }
}
