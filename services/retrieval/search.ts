import type { Tx } from "../../mesh/database.ts"
import { readStems } from "./posting-store.ts"
import { corrected, parseQuery, type QueryTerm, toQueryTerms } from "./query.ts"
import {
  defaultWeights,
  type RankedPassage,
  type RankingLimits,
  rankPassages,
  type Weights,
} from "./ranking.ts"
import {
  type FoundDocuments,
  findDocuments,
  type PassageRow,
  readCandidates,
  readPassages,
  readTellingWords,
  readTermsWithPrefix,
} from "./search-store.ts"
import { comparedPrefix, nearestSpelling, shortestCorrected } from "./spelling.ts"

export interface SearchQuery {
  readonly text: string
  readonly documentIds: readonly string[]
  readonly limits: RankingLimits
}

export interface FoundPassage extends PassageRow {
  readonly score: number
}

/** Fewest documents whose passages are compared, so that the best passage is not lost early. */
const leastCandidates = 40
const mostSpellings = 2000
/** A question of fewer terms is taken as it is. */
const leastForFeedback = 7
const feedbackDocuments = 10
const feedbackWords = 10
/** Of the most telling word that is added, against 1 of a word of the question. */
const feedbackWeight = 0.4
/** Most identifiers that the beginning of one stands for. */
const mostCompletions = 20
/** Shortest beginning of an identifier, its mark included. */
const shortestPrefix = 3

/** Ranks one workspace's passages in two stages: documents by BM25, then their passages by place. */
export async function rank(
  tx: Tx,
  query: SearchQuery,
  weights: Weights = defaultWeights,
): Promise<readonly RankedPassage[]> {
  const parsed = parseQuery(query.text)
  const terms = toQueryTerms(parsed, await readStems(tx, parsed.words))
  if (terms.length === 0) return []
  const most = Math.max(leastCandidates, query.limits.passages * 2)
  const find = (wanted: readonly QueryTerm[]) =>
    findDocuments(tx, wanted, query.documentIds, most, weights)

  const first = await find(terms)
  const respelled = await respell(tx, terms, first)
  const wanted = respelled ?? terms
  const direct = respelled === undefined ? first : await find(wanted)
  const expanded = await expand(tx, wanted, direct)
  const found = expanded === undefined ? direct : await find(expanded)
  if (found.scores.size === 0) return []

  const candidates = await readCandidates(tx, found)
  return rankPassages(candidates, wanted, found.rarity, query.limits, weights)
}

/** The passages themselves, each with its score. */
export async function readFound(
  tx: Tx,
  ranked: readonly RankedPassage[],
): Promise<readonly FoundPassage[]> {
  if (ranked.length === 0) return []
  const passages = await readPassages(tx, ranked)
  const scores = new Map(ranked.map((one) => [`${one.documentId} ${one.ordinal}`, one.score]))
  return passages.map((passage) => ({
    ...passage,
    score: scores.get(`${passage.documentId} ${passage.ordinal}`) ?? 0,
  }))
}

/**
 * A long question with what the documents that answer it best have in common (Rocchio's feedback): the
 * question says enough for them to be about it. Undefined for a short one, which a single wrong
 * document would lead astray. Added words have no place in the question, so they rank documents only.
 */
async function expand(
  tx: Tx,
  terms: readonly QueryTerm[],
  found: FoundDocuments,
): Promise<readonly QueryTerm[] | undefined> {
  if (terms.length < leastForFeedback) return undefined
  const ordered = [...found.scores].sort(([, one], [, other]) => other - one)
  const best = new Map(ordered.slice(0, feedbackDocuments))
  const telling = await readTellingWords(tx, best, feedbackWords)
  const weights = new Map(telling.map(({ term, worth }) => [term, feedbackWeight * worth]))
  const own = terms.map((term) => {
    return { ...term, weight: term.weight + (weights.get(term.term) ?? 0) }
  })
  for (const { term } of terms) weights.delete(term)
  const added = [...weights].map(([term, weight]) => {
    return { term, weight, position: Number.NEGATIVE_INFINITY, kind: "word" as const }
  })
  return [...own, ...added]
}

/**
 * The terms with something near for each that occurs nowhere: the identifiers that begin like an
 * identifier, the nearest spelling of a word; undefined for no change.
 */
async function respell(
  tx: Tx,
  terms: readonly QueryTerm[],
  found: FoundDocuments,
): Promise<readonly QueryTerm[] | undefined> {
  const respelled = new Map<string, QueryTerm>()
  const keep = (term: QueryTerm) => {
    if (!respelled.has(term.term)) respelled.set(term.term, term)
  }
  for (const term of terms) if (found.rarity.has(term.term)) keep(term)
  const known = respelled.size
  for (const term of terms) {
    if (found.rarity.has(term.term)) continue
    for (const near of await findNear(tx, term)) keep(near)
  }
  return respelled.size > known ? [...respelled.values()] : undefined
}

async function findNear(tx: Tx, term: QueryTerm): Promise<readonly QueryTerm[]> {
  if (term.kind === "exact") {
    if (term.term.length <= shortestPrefix) return []
    const names = await readTermsWithPrefix(tx, term.term, mostCompletions)
    return names.map((name) => ({ ...term, term: name }))
  }
  if (term.kind !== "word" || term.term.length < shortestCorrected) return []
  const prefix = [...term.term].slice(0, comparedPrefix).join("")
  const spelling = nearestSpelling(term.term, await readTermsWithPrefix(tx, prefix, mostSpellings))
  return spelling === undefined ? [] : [corrected(term, spelling)]
}
