import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { shortened, visible, visibleJson, visibleLines } from "./visible-text.ts"

describe("what would not be seen is shown by its number", () => {
  test.each([
    ["an escape sequence", "\u001b[2Jgone", "\\u{001b}[2Jgone"],
    ["a change of direction", "pay \u202e0001 to", "pay \\u{202e}0001 to"],
    ["an isolate", "a\u2066b\u2069", "a\\u{2066}b\\u{2069}"],
    ["a tag", "hi\u{e0041}", "hi\\u{e0041}"],
    ["a blank that is none", "a\u00a0b\u3164c\u2800", "a\\u{00a0}b\\u{3164}c\\u{2800}"],
    ["zero width", "a\u200bb\u00adc\ufeff", "a\\u{200b}b\\u{00ad}c\\u{feff}"],
    ["a variation selector", "a\ufe0fb\u{e0100}", "a\\u{fe0f}b\\u{e0100}"],
    ["a line separator", "a\u2028b", "a\\u{2028}b"],
    ["a lone surrogate", "a\ud800b", "a\\u{d800}b"],
    ["NUL and C1", "\u0000\u009b", "\\u{0000}\\u{009b}"],
    ["a line break, where one line is meant", "a\nb", "a\\u{000a}b"],
  ])("%s", (_, text, shown) => {
    expect(visible(text)).toBe(shown)
  })

  test("other scripts and emoji stay", () => {
    for (const text of ["Grüße", "日本語", "العربية", "🙂", "naïve – “so”"]) {
      expect(visible(text)).toBe(text)
    }
  })
})

test("lines stay lines, and carriage returns do not overwrite them", () => {
  expect(visibleLines("a\r\nb\tc\rd")).toBe("a\nb  c\\u{000d}d")
})

test("JSON shows every character and parses to the same value", () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.string({ unit: "binary" }), (value, text) => {
      const shown = visibleJson({ value, text, [text]: 1 })
      expect(JSON.parse(shown)).toEqual(JSON.parse(JSON.stringify({ value, text, [text]: 1 })))
      expect(shown.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u)
    }),
    { seed: 42, numRuns: 300 },
  )
})

test("two arguments that differ never look the same", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (one, other) => {
      fc.pre(one !== other && one.isWellFormed() && other.isWellFormed())
      expect(visibleJson(one)).not.toBe(visibleJson(other))
    }),
    { seed: 7, numRuns: 300 },
  )
})

test("a shortened text is one line", () => {
  expect(shortened("a  b\n c", 10)).toBe("a b c")
  expect(shortened("abcdefgh", 5)).toBe("abcd…")
})
