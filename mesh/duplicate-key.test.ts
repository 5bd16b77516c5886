import fc from "fast-check"
import { expect, test } from "vitest"
import { findDuplicateKey } from "./duplicate-key.ts"

test.each([
  ["side by side", '{"a":1,"a":2}', "a"],
  ["with space before the colon", '{"a" :1, "a"\n:2}', "a"],
  ["escaped", '{"a":1,"\\u0061":2}', "a"],
  ["deep inside", '{"x":[{"y":{"a":1,"b":{},"a":2}}]}', "a"],
  ["empty", '{"":1,"":2}', ""],
  ["with a quote in it", '{"\\"":1,"\\u0022":2}', '"'],
  ["__proto__", '{"__proto__":1,"__proto__":2}', "__proto__"],
])("finds a key %s", (_, text, key) => {
  expect(findDuplicateKey(text)).toBe(key)
})

test.each([
  ["in another object", '[{"a":1},{"a":1}]'],
  ["one level down", '{"a":{"a":{"a":1}}}'],
  ["as a value", '{"a":"a","b":"a"}'],
  ["as items", '["a","a"]'],
  ["in a text that looks like JSON", '{"a":"{\\"a\\":1,\\"a\\":2}"}'],
  ["after a backslash", '{"a\\\\":1,"a":2}'],
  ["in broken JSON", '{"a":"'],
])("passes a key that is there again %s", (_, text) => {
  expect(findDuplicateKey(text)).toBeUndefined()
})

test("says of no JSON that a serialiser writes that a key is there twice", () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 5 }), (text) => findDuplicateKey(text) === undefined),
    { seed: 5, numRuns: 500 },
  )
})

test("finds whatever key is written once more", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue(), { minKeys: 1 }), (value) => {
      const text = JSON.stringify(value)
      const [key = ""] = Object.keys(value)
      return findDuplicateKey(`${text.slice(0, -1)},${JSON.stringify(key)}:0}`) === key
    }),
    { seed: 6, numRuns: 500 },
  )
})

test("takes a megabyte of quotes and backslashes in little time", () => {
  for (const text of [
    '"'.repeat(1e6),
    "\\".repeat(1e6),
    `"${'\\"'.repeat(5e5)}"`,
    "{".repeat(1e6),
  ]) {
    // Processor time: a busy machine takes longer, but does no more.
    const start = process.cpuUsage()
    findDuplicateKey(text)
    const { user, system } = process.cpuUsage(start)
    expect((user + system) / 1000).toBeLessThan(1_500)
  }
})
