import fc from "fast-check"
import { expect, it } from "vitest"
import { normalise } from "./normalised-text.ts"
import { finish } from "./slices.ts"
import { createWordBook, wordsOf } from "./word-book.ts"

const fixed = { seed: 20_260_304, numRuns: 5_000 }

it("a text that may hold no word holds none", () => {
  let held = 0
  let spared = 0
  const unit = fc.constantFrom(..."aabbAB1 -_.\u00e9\u0430\u5b57\u0130\u212a\u017f")
  const phrase = fc
    .string({ unit, minLength: 1, maxLength: 6 })
    .filter((it) => wordsOf(it).length > 0)
  const lists = fc.array(fc.array(phrase, { minLength: 1, maxLength: 3 }), { maxLength: 3 })
  const texts = fc.array(fc.string({ unit, maxLength: 30 }), { minLength: 1, maxLength: 8 })
  const property = fc.property(lists, texts, (lists, texts) => {
    const book = createWordBook(lists)
    for (const text of texts) {
      const normalised = finish(normalise(text))
      const found = finish(book.find(normalised))
      if (found.size > 0) expect(book.mayHold(normalised)).toBe(true)
      if (found.size > 0) held += 1
      if (!book.mayHold(normalised)) spared += 1
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
  expect(others.filter((each) => book.mayHold(each)).length).toBeLessThan(120)
  expect(words.every((each) => book.mayHold(`a ${each} b`))).toBe(true)
})
