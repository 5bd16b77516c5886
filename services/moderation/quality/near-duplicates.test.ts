import { expect, test } from "vitest"
import { groupNearDuplicates } from "./near-duplicates.ts"

const long =
  "the quick brown fox jumps over the lazy dog while the farmer sleeps beside the old stone wall of the garden"

test("texts that are nearly the same stand in one group, and others do not", () => {
  const [first, retold, cut, other, ...empty] = groupNearDuplicates([
    long,
    `RT @somebody: ${long.toUpperCase()}! https://a.example/1`,
    long.replace("farmer", "gardener"),
    "a wholly different text about ships and the harbour they left before the storm came",
    "",
    "",
  ])
  expect(retold).toBe(first)
  expect(cut).toBe(first)
  expect(other).not.toBe(first)
  expect(empty[0]).toBe(empty[1])
})
