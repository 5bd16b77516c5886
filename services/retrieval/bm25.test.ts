/** The first stage of ranking against BM25 computed by hand. */
import { expect, test } from "vitest"
import { newId } from "../../mesh/ids.ts"
import { defaultWeights } from "./ranking.ts"
import { startRetrieval } from "./retrieval-harness.ts"

test("scores are those of BM25 over weighted fields", async () => {
  await using harness = await startRetrieval()
  const own = harness.newTenant()
  const [short, long, other] = [newId(), newId(), newId()]
  // Words with their title of one word: 3, 7 and 3. The average is 13/3.
  await own.ingest(short, 1, "big wombat", { title: "alpha" })
  await own.ingest(long, 1, "see wombat and wombat big wombat", { title: "beta" })
  await own.ingest(other, 1, "plain koala", { title: "wombat" })
  const { saturation: k, length: b, title, passage } = defaultWeights
  const rarity = Math.log(1 + (3 - 3 + 0.5) / (3 + 0.5))
  const bm25 = (frequency: number, words: number) =>
    (rarity * frequency * (k + 1)) / (frequency + k * (1 - b + (b * words) / (13 / 3)))
  const ofPassage = (count: number) => passage * ((rarity * count) / (count + 1))
  const found = await own.search("wombat")
  const scores = new Map(found.map(({ citation, score }) => [citation?.documentId, score]))
  expect(scores.get(short)).toBeCloseTo(bm25(1, 3) + ofPassage(1), 6)
  expect(scores.get(long)).toBeCloseTo(bm25(3, 7) + ofPassage(3), 6)
  expect(scores.get(other)).toBeCloseTo(bm25(title, 3), 6)
  expect(found.map(({ citation }) => citation?.documentId)).toEqual([other, long, short])
})
