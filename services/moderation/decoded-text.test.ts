import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { decodedLayers, maxLayers, mayBeEncoded } from "./decoded-text.ts"
import { kindOn, wordRule } from "./moderation-harness.ts"
import { finish } from "./slices.ts"

const secret = "the forbidden apple lies in the garden"
const base64 = (text: string) => Buffer.from(text).toString("base64")
const percent = (text: string) =>
  [...Buffer.from(text)].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("")
const entities = (text: string) => [...text].map((c) => `&#${c.codePointAt(0)};`).join("")
const hexEntities = (text: string) =>
  [...text].map((c) => `&#x${c.codePointAt(0)?.toString(16)};`).join("")
const unicode = (text: string) =>
  [...text].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`).join("")
const braced = (text: string) =>
  [...text].map((c) => `\\u{${c.codePointAt(0)?.toString(16)}}`).join("")
const hex = (text: string) =>
  [...text].map((c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`).join("")
const base64Url = (text: string) => Buffer.from(text).toString("base64url")
const encodings = { base64, base64Url, percent, entities, hexEntities, unicode, braced, hex }

const layersOf = (text: string) => finish(decodedLayers(text))

describe.each(Object.entries(encodings))("%s", (_, encode) => {
  test("is taken off", () => {
    expect(layersOf(`see ${encode(secret)}!`)[0]).toBe(`see ${secret}!`)
  })

  test("hides nothing from a rule", () => {
    expect(kindOn(wordRule("forbidden apple"), `see ${encode(secret)}!`)).toBe("blocked")
  })

  test.each(Object.entries(encodings))("within %s hides nothing either", (_name, around) => {
    expect(kindOn(wordRule("forbidden apple"), around(encode(secret)))).toBe("blocked")
  })
})

describe("a text", () => {
  test("of three layers is read, and of four it is not read to the end", () => {
    const wrapped = (layers: number): string =>
      layers === 0 ? secret : base64(wrapped(layers - 1))
    expect(layersOf(wrapped(maxLayers)).at(-1)).toBe(secret)
    expect(layersOf(wrapped(maxLayers + 1)).length).toBe(maxLayers)
  })

  test.each([
    "plain words, 100 % of them; and more & more",
    "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "C:\\windows\\system32",
    "%zz and %e2%28%a1",
    "averylongwordthathasnomeaningatall",
  ])("that is not encoded stays as it is: %s", (text) => {
    expect(layersOf(text)).toEqual([])
  })

  test("of any kind ends, with layers that are no longer than it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (text) => {
        const layers = layersOf(text)
        expect(layers.length).toBeLessThanOrEqual(maxLayers)
        for (const layer of layers) expect(layer.length).toBeLessThanOrEqual(text.length)
        if (!mayBeEncoded(text)) expect(layers).toEqual([])
      }),
      { seed: 11, numRuns: 1_000 },
    )
  })

  test("of a megabyte is decoded in a moment", () => {
    const startedAt = performance.now()
    const text = base64("words of no weight ".repeat(50_000))
    expect(layersOf(text)[0]?.length).toBe(950_000)
    expect(performance.now() - startedAt).toBeLessThan(1_000)
  })
})
