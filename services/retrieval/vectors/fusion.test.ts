import { expect, test } from "vitest"
import { fuse } from "./fusion.ts"

const place = (documentId: string, ordinal = 0) => ({ documentId, version: 1, ordinal })
const limits = { passages: 10, perDocument: 2 }

test("what two rankings agree on comes before what one alone puts first", () => {
  const words = [place("a"), place("b"), place("c")]
  const meaning = [place("d"), place("b"), place("e")]
  const fused = fuse([words, meaning], limits)
  expect(fused.map(({ documentId }) => documentId)).toEqual(["b", "a", "d", "c", "e"])
  expect(fused[0]?.score).toBeCloseTo(2 / 62, 10)
  expect(fused[1]?.score).toBeCloseTo(1 / 61, 10)
})

test("limits hold for the answer and for each document", () => {
  const many = [place("a", 0), place("a", 1), place("a", 2), place("b"), place("c")]
  expect(fuse([many], limits).map(({ ordinal }) => ordinal)).toEqual([0, 1, 0, 0])
  expect(fuse([many], { passages: 2, perDocument: 9 })).toHaveLength(2)
  expect(fuse([[], []], limits)).toEqual([])
})
