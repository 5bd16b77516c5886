import fc from "fast-check"
import { RE2JS } from "re2js"
import { expect, test } from "vitest"
import { matchesPattern } from "./validation.ts"

// Of each kind that the contract has: those that the platform's engine takes, and those that RE2 keeps.
const patterns = [
  "^[0-9a-f]{64}$",
  "^[a-z0-9._/-]{1,200}$",
  "^[A-Za-z0-9._+-]+$",
  "^[A-Za-z0-9._/*-]+$",
  "^[^\\x00]*$",
  "^[a-z0-9_]{1,128}$",
  "^[a-z0-9]+(-[a-z0-9]+)*@[1-9][0-9]{0,8}$",
  "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$",
]

test("a pattern matches what RE2 says that it matches", () => {
  const text = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.string({ unit: fc.constantFrom("a", "f", "0", ".", "-", "_", "/", "\n", "\0", "é", "😀") }),
    fc.string({ unit: fc.constantFrom("a", "0"), minLength: 60, maxLength: 210 }),
  )
  fc.assert(
    fc.property(fc.constantFrom(...patterns), text, (pattern, value) => {
      expect(matchesPattern(pattern, value)).toBe(RE2JS.compile(pattern).test(value))
    }),
    { seed: 11, numRuns: 2_000 },
  )
})

test("a pattern that is hard for the platform's engine is matched in no time", () => {
  const start = performance.now()
  expect(matchesPattern("^(a+)+$", `${"a".repeat(10_000)}!`)).toBe(false)
  expect(performance.now() - start).toBeLessThan(1_000)
})
