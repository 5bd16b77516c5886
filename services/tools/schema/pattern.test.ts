/** Patterns mean what they mean in ECMAScript, or are refused. */
import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { maxSteps, SchemaMeter } from "./meter.ts"
import { createPatternBook } from "./pattern.ts"

function found(pattern: string, text: string): boolean {
  const meter = new SchemaMeter()
  meter.restart(maxSteps)
  return createPatternBook(meter).read(pattern).test(text)
}

describe("the same as in ECMAScript", () => {
  const patterns = [
    ...["^a$", "a|b", "^(?:a|b)+c?$", "(?<year>\\d{4})-\\d\\d", "a{2,3}", "^[^a-c]*$", "^$"],
    ...["^\\s+$", "\\S", "^[\\s\\w]+$", "[^\\s]", "[\\S]", "\\w+@\\w+", "\\bword\\b", "a\\Bb"],
    ...["^.$", "^\\.$", "[.]", "\\/", "a-b", "[a-]", "[-a]", "[\\w-]", "[+\\--9]", "[\\]]", "[[]"],
    ...["\\u00e9", "\\u{1F600}", "\\ud83d\\ude00", "\\x41", "\\cJ", "\\0", "\\t\\n\\v\\f\\r"],
    ...["\\p{L}+", "\\p{Letter}", "\\p{Script=Greek}", "\\P{Lu}", "^\\p{digit}+$", "[\\p{L}\\d]"],
    ...[
      "é",
      "[à-ü]",
      "a.*?b",
      "x*y+?z??",
      "^[^\\n]*$",
      "[^]",
      "[]",
      "[\\x41-\\u005a]",
      "\\{a\\}",
      "\\$",
      "[$^|()]",
    ],
  ]
  const texts = [
    ...["", "a", "b", "c", "ab", "aab", "aaab", "abc", "A", "é", "αβγ", "à", "word", "a word b"],
    ...["2024-01", "x@y", "a b", " ", "\t", "\u00a0", "\u2028", "\ufeff", "\u180e", "a\nb", "\n"],
    ...[
      ".",
      "-",
      "+",
      "/",
      "]",
      "[",
      "$",
      "{a}",
      "\u0000",
      "J",
      "😀",
      "a😀b",
      "٣",
      "9",
      "_",
      "a-b",
    ],
  ]
  test.each(patterns)("%s", (pattern) => {
    const native = new RegExp(pattern, "u")
    for (const text of texts)
      expect([text, found(pattern, text)]).toEqual([text, native.test(text)])
  })

  test("for whatever is put together of their parts", () => {
    const part = fc.constantFrom(...["a", "b", "[ab]", "[^a]", "\\s", "\\w", ".", "(?:a|b)", "\\d"])
    const times = fc.constantFrom("", "", "*", "+", "?", "{2}", "{1,2}", "*?")
    const pattern = fc
      .array(fc.tuple(part, times), { minLength: 1, maxLength: 5 })
      .map((parts) => `^${parts.flat().join("")}$`)
    const text = fc.string({
      unit: fc.constantFrom("a", "b", "1", " ", "\n", "\u2028"),
      maxLength: 8,
    })
    fc.assert(
      fc.property(pattern, text, (one, other) => {
        expect(found(one, other)).toBe(new RegExp(one, "u").test(other))
      }),
      { seed: 11, numRuns: 2_000 },
    )
  })
})

test("older patterns may escape what needs no escape", () => {
  expect(found("^[a\\-z]\\-\\_\\@$", "--_@")).toBe(true)
})

describe("refused", () => {
  test.each([
    ["a look-ahead", "(?=a)", "looks around"],
    ["a look-behind", "(?<!a)b", "looks around"],
    ["flags", "(?i:a)", "looks around, or sets flags"],
    ["a back-reference", "(a)\\1", "refers back"],
    ["a named back-reference", "(?<x>a)\\k<x>", "refers back"],
    ["what RE2 alone knows", "\\Aa\\z", "unknown escape"],
    ["what is no pattern", "(", "no pattern of ECMAScript"],
    ["an unknown property", "\\p{Emoji}", "not supported"],
    ["a repeat of a repeat", "((a{50}){50}){50}", "repeats too much"],
    ["a large repeat", "a{1001}", "more than 1000 times"],
    ["a long pattern", "a".repeat(513), "longer than 512"],
  ])("%s", (_, pattern, why) => {
    expect(() => found(pattern, "")).toThrow(new RegExp(why))
  })
})
