import { expect, test } from "vitest"
import type { QueryTerm } from "./query.ts"
import { type Candidate, defaultWeights, rankPassages } from "./ranking.ts"

const first: QueryTerm = { term: "wombat", weight: 1, position: 0, kind: "word" }
const second: QueryTerm = { term: "burrow", weight: 0.5, position: 1, kind: "word" }
const rarity = new Map([
  ["wombat", 2],
  ["burrow", 1],
])
const weights = { ...defaultWeights, passage: 0.5, phrase: 1 }
const many = { passages: 10, perDocument: 10 }

function candidate(documentId: string, score: number, places: Record<string, number[]>): Candidate {
  const firstPositions = [0, 10, 20]
  return { documentId, version: 1, score, firstPositions, places: new Map(Object.entries(places)) }
}

test("a passage scores its document, its own terms and how close they stand", () => {
  const own = candidate("a", 3, { wombat: [1, 2, 11, 25], burrow: [12, 29] })
  const ranked = rankPassages([own], [first, second], rarity, many, weights)
  // 0: wombat twice, 2 · 2/3. 1: both, 2 · 1/2 + 0.5 · 1/2, side by side 1. 2: both, four apart 1/4.
  expect(ranked.map(({ ordinal }) => ordinal)).toEqual([1, 2, 0])
  expect(ranked[0]?.score).toBeCloseTo(3 + 0.5 * (1 + 0.25 + 1), 10)
  expect(ranked[1]?.score).toBeCloseTo(3 + 0.5 * (1 + 0.25 + 0.25), 10)
  expect(ranked[2]?.score).toBeCloseTo(3 + 0.5 * (4 / 3), 10)
})

test("words further apart than eight do not help each other", () => {
  const near = candidate("a", 0, { wombat: [0], burrow: [8] })
  const far = candidate("b", 0, { wombat: [0], burrow: [9] })
  const [best, other] = rankPassages([far, near], [first, second], rarity, many, weights)
  expect(best?.documentId).toBe("a")
  expect((best?.score ?? 0) - (other?.score ?? 0)).toBeCloseTo(0.5 / 8, 10)
})

test("equal scores are in order of document and place, whatever order they came in", () => {
  const [a, b] = [candidate("a", 1, { wombat: [0, 10] }), candidate("b", 1, { wombat: [0, 10] })]
  const inOrder = rankPassages([a, b], [first], rarity, many, weights)
  expect(inOrder.map(({ documentId, ordinal }) => `${documentId}${ordinal}`)).toEqual([
    ...["a0", "a1", "b0", "b1"],
  ])
  expect(rankPassages([b, a], [first], rarity, many, weights)).toEqual(inOrder)
})

test("limits hold for the answer and for each document in it", () => {
  const all = ["a", "b", "c"].map((id) => candidate(id, 1, { wombat: [0, 10, 20] }))
  const ranked = rankPassages(all, [first], rarity, { passages: 3, perDocument: 2 }, weights)
  expect(ranked.map(({ documentId }) => documentId)).toEqual(["a", "a", "b"])
})

test("a document found by its title alone shows its first passage", () => {
  const ranked = rankPassages([candidate("a", 2, { wombat: [] })], [first], rarity, many, weights)
  expect(ranked).toEqual([{ documentId: "a", version: 1, ordinal: 0, score: 2 }])
})
