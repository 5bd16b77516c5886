import type { JsonValue } from "@bufbuild/protobuf"
import fc from "fast-check"
import { expect, it } from "vitest"
import { pointerOf, textsOf } from "./content-text.ts"

it("every key, string and number is a text with its JSON pointer", () => {
  const content = { "a/b": ["x", { "~": 7 }], c: true, d: null, "": "empty key", e: "" }
  expect(textsOf(content).map(({ place, text }) => [pointerOf(place), text])).toEqual([
    ["/a~1b", "a/b"],
    ["/a~1b/0", "x"],
    ["/a~1b/1/~0", "~"],
    ["/a~1b/1/~0", "7"],
    ["/c", "c"],
    ["/d", "d"],
    ["/", "empty key"],
    ["/e", "e"],
  ])
  expect(textsOf("alone").map(({ place }) => pointerOf(place))).toEqual([""])
})

it("a pointer leads to where its text stands, in whatever content", () => {
  const property = fc.property(fc.jsonValue({ maxDepth: 4 }), (content) => {
    for (const { place, text } of textsOf(content as JsonValue)) {
      const steps = pointerOf(place).split("/").slice(1).map(unescaped)
      const value = steps.reduce<unknown>((at, step) => Reflect.get(at as object, step), content)
      const key = place?.key
      expect([String(value), key]).toContain(text)
    }
  })
  fc.assert(property, { seed: 20_260_305, numRuns: 2_000 })
})

it("a pointer is cut, and holds nothing that cannot be stored", () => {
  const [first] = textsOf({ [`a\0\ud800${"k".repeat(600)}`]: 1 })
  const pointer = pointerOf(first?.place)
  expect(pointer.length).toBe(512)
  expect(pointer.startsWith("/a\ufffd\ufffdkkk")).toBe(true)
})

function unescaped(step: string): string {
  return step.replaceAll("~1", "/").replaceAll("~0", "~")
}
