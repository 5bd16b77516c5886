import type { QueryTerm } from "./query.ts"

/** The weights of ranking; bench/eval-retrieval.ts measures them. */
export interface Weights {
  /** Of an occurrence in the title, a heading, at the start of a line, and elsewhere. */
  readonly title: number
  readonly heading: number
  readonly lead: number
  readonly body: number
  /** BM25: how soon further occurrences stop to count, and how much length is held against a document. */
  readonly saturation: number
  readonly length: number
  /** Of the best passage of a document against the document as a whole. */
  readonly passage: number
  /** Of words of the query that stand together. */
  readonly phrase: number
}

export const defaultWeights: Weights = {
  title: 7,
  heading: 4,
  lead: 4,
  body: 1,
  saturation: 2,
  length: 0.3,
  passage: 0.6,
  phrase: 1,
}

/** A document that the first stage found, with where the terms stand. */
export interface Candidate {
  readonly documentId: string
  readonly version: number
  readonly score: number
  /** Number of the first word of each passage, ascending. */
  readonly firstPositions: readonly number[]
  readonly places: ReadonlyMap<string, readonly number[]>
}

export interface RankedPassage {
  readonly documentId: string
  readonly version: number
  readonly ordinal: number
  readonly score: number
}

export interface RankingLimits {
  readonly passages: number
  readonly perDocument: number
}

/** Words further apart than this do not help each other. */
const nearness = 8

/**
 * Ranks passages: by the score of their document, and by how much of the query they hold themselves
 * and how close together. Equal scores are ordered by document and place, so that the answer is the
 * same every time.
 */
export function rankPassages(
  candidates: readonly Candidate[],
  terms: readonly QueryTerm[],
  rarity: ReadonlyMap<string, number>,
  limits: RankingLimits,
  weights: Weights = defaultWeights,
): readonly RankedPassage[] {
  const ranked = candidates.flatMap((candidate) =>
    scorePassages(candidate, terms, rarity, weights).slice(0, limits.perDocument),
  )
  return ranked.sort(byScore).slice(0, limits.passages)
}

function scorePassages(
  candidate: Candidate,
  terms: readonly QueryTerm[],
  rarity: ReadonlyMap<string, number>,
  weights: Weights,
): RankedPassage[] {
  const { documentId, version, firstPositions } = candidate
  const scores = new Map<number, number>()
  const add = (position: number, score: number) => {
    const ordinal = passageAt(firstPositions, position)
    scores.set(ordinal, (scores.get(ordinal) ?? 0) + score)
  }
  for (const { term, weight } of terms) {
    const worth = weight * (rarity.get(term) ?? 0)
    for (const [ordinal, count] of countByPassage(candidate.places.get(term) ?? [], firstPositions))
      scores.set(ordinal, (scores.get(ordinal) ?? 0) + (worth * count) / (count + 1))
  }
  for (const pair of neighbours(terms)) {
    const worth = weights.phrase * Math.min(...pair.map(({ term }) => rarity.get(term) ?? 0))
    for (const [position, closeness] of nearest(candidate.places, pair, firstPositions))
      add(position, worth * closeness)
  }
  if (scores.size === 0) scores.set(0, 0)
  return [...scores]
    .map(([ordinal, score]) => ({
      documentId,
      version,
      ordinal,
      score: candidate.score + weights.passage * score,
    }))
    .sort(byScore)
}

function byScore(a: RankedPassage, b: RankedPassage): number {
  if (a.score !== b.score) return b.score - a.score
  if (a.documentId !== b.documentId) return a.documentId < b.documentId ? -1 : 1
  return a.ordinal - b.ordinal
}

/** Terms of different words that follow each other in the query. */
function neighbours(terms: readonly QueryTerm[]): (readonly [QueryTerm, QueryTerm])[] {
  const words = terms.filter(({ kind }) => kind === "word").sort((a, b) => a.position - b.position)
  return words.flatMap((term, index) => {
    const next = words[index + 1]
    return next === undefined ? [] : [[term, next] as const]
  })
}

/** Per passage, the place where two words stand closest, and how close: 1 is side by side. */
function nearest(
  places: Candidate["places"],
  [first, second]: readonly [QueryTerm, QueryTerm],
  firstPositions: readonly number[],
): ReadonlyMap<number, number> {
  const best = new Map<number, { position: number; closeness: number }>()
  const others = places.get(second.term) ?? []
  let from = 0
  for (const position of places.get(first.term) ?? []) {
    while ((others[from] ?? Number.POSITIVE_INFINITY) < position - nearness) from++
    for (let i = from; (others[i] ?? Number.POSITIVE_INFINITY) <= position + nearness; i++) {
      const distance = Math.abs((others[i] ?? 0) - position)
      const closeness = distance <= 1 ? 1 : 1 / distance
      const ordinal = passageAt(firstPositions, position)
      if (closeness > (best.get(ordinal)?.closeness ?? 0))
        best.set(ordinal, { position, closeness })
    }
  }
  return new Map([...best.values()].map(({ position, closeness }) => [position, closeness]))
}

function countByPassage(
  positions: readonly number[],
  firstPositions: readonly number[],
): ReadonlyMap<number, number> {
  const counts = new Map<number, number>()
  for (const position of positions) {
    const ordinal = passageAt(firstPositions, position)
    counts.set(ordinal, (counts.get(ordinal) ?? 0) + 1)
  }
  return counts
}

/** The passage that holds a position: the last one that starts at or before it. */
function passageAt(firstPositions: readonly number[], position: number): number {
  let low = 0
  let high = firstPositions.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((firstPositions[middle] ?? 0) <= position) low = middle
    else high = middle - 1
  }
  return low
}
