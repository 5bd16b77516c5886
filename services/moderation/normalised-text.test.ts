import fc from "fast-check"
import { expect, it } from "vitest"
import { mayBeEncoded } from "./decoded-text.ts"
import { formsOf, isPlain } from "./normalised-text.ts"
import { finish } from "./slices.ts"

const fixed = { seed: 20_260_303, numRuns: 20_000 }

it("a plain text has one form, itself", () => {
  let plain = 0
  const unit = fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom(..."abcXYZ019.,:/~") },
    { weight: 4, arbitrary: fc.constant(" ") },
    {
      weight: 1,
      arbitrary: fc.constantFrom(..."\t\n\v\f\r\0\x1f\x7f\x80\u00a0é\u200b\u2028а\u{e0041}\ud800"),
    },
  )
  const property = fc.property(fc.string({ unit, minLength: 1, maxLength: 24 }), (text) => {
    const { written, normalised } = finish(formsOf(text))
    if (isPlain(text)) {
      plain += 1
      expect([written, normalised]).toEqual([undefined, [text]])
    }
    const isOne = written === undefined && normalised.length === 1
    if (isOne && /^[ -~]*$/.test(text)) expect(isPlain(text)).toBe(!mayBeEncoded(text))
  })
  fc.assert(property, fixed)
  expect(plain).toBeGreaterThan(5_000)
})

it("every character but those of ASCII that are seen keeps a text from being plain", () => {
  const plain = Array.from({ length: 0x10000 }, (_, unit) => String.fromCharCode(unit)).filter(
    (unit) => isPlain(`a${unit}b`),
  )
  expect(plain.join("")).toMatch(/^[ -~]{95}$/)
})
