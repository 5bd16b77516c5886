import fc from "fast-check"
import { expect, it } from "vitest"
import { normalise } from "./normalised-text.ts"
import { finish } from "./slices.ts"
import { createWordBook, wordsOf } from "./word-book.ts"

const fixed = { seed: 20_260_304, numRuns: 2_000 }

it("every phrase is found that stands in a text word for word, and no other", () => {
  let held = 0
  let spared = 0
  const unit = fc.constantFrom(..."aabbAB1 -_.")
  const anyUnit = fc.oneof(
    { weight: 8, arbitrary: unit },
    { weight: 1, arbitrary: fc.constantFrom(..."\u00e9\u0430\u5b57\u0130\u212a\u017f") },
  )
  const phrase = fc
    .string({ unit: anyUnit, minLength: 1, maxLength: 6 })
    .filter((it) => wordsOf(it).length > 0)
  const lists = fc.array(fc.array(phrase, { minLength: 1, maxLength: 3 }), { maxLength: 3 })
  const text = fc.oneof(
    fc.string({ unit, maxLength: 30 }),
    fc.string({ unit: anyUnit, maxLength: 30 }),
  )
  const texts = fc.array(text, { minLength: 1, maxLength: 8 })
  const property = fc.property(lists, texts, (lists, texts) => {
    const book = createWordBook(lists)
    for (const text of texts) {
      const normalised = finish(normalise(text))
      const expected = lists.flatMap((phrases, entry) =>
        phrases.some((each) => standsIn(wordsOf(each), wordsOf(text))) ? [entry] : [],
      )
      expect([...finish(book.find(normalised))].sort()).toEqual(expected)
      if (expected.length > 0) expect(book.mayHold(normalised)).toBe(true)
      held += expected.length > 0 ? 1 : 0
      spared += book.mayHold(normalised) ? 0 : 1
    }
  })
  fc.assert(property, fixed)
  expect(held).toBeGreaterThan(1_000)
  expect(spared).toBeGreaterThan(2_000)
})

it("a word that is longer than words can be is cut where it is cut when it is looked up", () => {
  const [head, tail] = ["x".repeat(256), "needle"]
  const book = createWordBook([[tail]])
  expect([...finish(book.find(head + tail))]).toEqual([0])
  expect(book.mayHold(head + tail)).toBe(true)
  expect(book.mayHold(head)).toBe(false)
})

it("harmless words are spared the look at a long list", () => {
  const words = Array.from({ length: 10_000 }, (_, index) => `word${index * 7}`)
  const book = createWordBook([words])
  const others = Array.from({ length: 1_000 }, (_, index) => `other${index}`)
  expect(others.filter((each) => book.mayHold(each))).toEqual([])
  expect(words.every((each) => book.mayHold(`a ${each} b`))).toBe(true)
})

function standsIn(phrase: readonly string[], text: readonly string[]): boolean {
  return text.some((_, start) => phrase.every((each, at) => text[start + at] === each))
}
