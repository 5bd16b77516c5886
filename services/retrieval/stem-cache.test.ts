import { expect, test } from "vitest"
import { createStemCache } from "./stem-cache.ts"

test("a word is asked for once, and its stem is the same from then on", () => {
  const cache = createStemCache()
  const first = cache.recall(["running", "the", "running", "__proto__"])
  expect(first.missing).toEqual(["running", "the", "__proto__"])
  const given = JSON.parse('{"running":["run"],"the":[],"__proto__":null}')
  const stems = cache.learn(first, given)
  expect(stems.get("running")).toEqual({ text: "run", isStopWord: false })
  expect(stems.get("the")).toEqual({ text: "the", isStopWord: true })
  expect(stems.get("__proto__")).toEqual({ text: "__proto__", isStopWord: false })
  const again = cache.recall(["the", "running"])
  expect(again.missing).toEqual([])
  expect(cache.learn(again, null).get("running")).toEqual({ text: "run", isStopWord: false })
})

test("a full cache starts anew and takes nothing from an ingestion under way", () => {
  const cache = createStemCache(2)
  cache.learn(cache.recall(["a", "b"]), { a: ["x"], b: ["y"] })
  const underWay = cache.recall(["a", "c"])
  cache.learn(cache.recall(["d"]), { d: ["z"] })
  expect(cache.recall(["a"]).missing).toEqual(["a"])
  const stems = cache.learn(underWay, { c: ["w"] })
  expect([...stems].map(([word, { text }]) => [word, text])).toEqual([
    ["a", "x"],
    ["c", "w"],
  ])
})
