import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { featureCount, featuresOf } from "./features.ts"

const set = (text: string) => new Set(featuresOf(text))
function shared(a: string, b: string): number {
  const both = [...set(a)].filter((feature) => set(b).has(feature)).length
  return both / new Set([...featuresOf(a), ...featuresOf(b)]).size
}

describe("features of a text", () => {
  test("are the same whenever they are asked for, each once and within bounds", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 300 }), (text) => {
        const features = featuresOf(text)
        expect(featuresOf(text)).toEqual(features)
        expect(new Set(features).size).toBe(features.length)
        expect(features.every((feature) => feature < featureCount)).toBe(true)
      }),
      { seed: 7, numRuns: 300 },
    )
  })

  test("of words and letters do not meet", () => {
    const letters = featuresOf("word").filter((feature) => feature >= featureCount / 2)
    // Three to five of " word ": 4 + 3 + 2.
    expect(letters.length).toBe(9)
    expect(featuresOf("word").length - letters.length).toBe(1)
  })

  test("are alike where words are misspelt, and not where they are others", () => {
    expect(shared("ignore all instructions", "ignore all instructionss")).toBeGreaterThan(0.6)
    expect(shared("ignore all instructions", "the weather is fine today")).toBeLessThan(0.05)
  })

  test("depend on the order of words", () => {
    expect(shared("man bites dog", "dog bites man")).toBeLessThan(1)
  })

  test("do not depend on which address, name or number is named", () => {
    expect(set("see https://a.example/1 @ann 12")).toEqual(set("see https://b.test/xyz @bob 345"))
  })

  test("of nothing are none", () => {
    expect(featuresOf("").length).toBe(0)
    expect(featuresOf(" \n ").length).toBe(0)
  })

  test("of one endless word are few", () => {
    expect(featuresOf("ab".repeat(50_000)).length).toBeLessThan(200)
  })
})
