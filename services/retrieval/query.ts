import { type Stems, termOf } from "./terms.ts"
import { readTokens, type Token } from "./tokens.ts"

/** A term to look for. Neighbouring words of the query have neighbouring positions. */
export interface QueryTerm {
  readonly term: string
  readonly weight: number
  readonly position: number
  readonly kind: Token["kind"]
}

/** A query as read, before the words are stemmed. */
export interface ParsedQuery {
  readonly tokens: readonly Token[]
  readonly words: readonly string[]
}

const maxTokens = 32
/** An identifier counts as a whole; its parts only help where nobody writes it so. */
const partWeight = 0.35
const keywordWeight = 0.6
const correctedWeight = 0.6

export function parseQuery(text: string): ParsedQuery {
  const seen = new Set<string>()
  const tokens = readTokens(text).filter(({ kind, text: token }) => {
    const key = `${kind} ${token}`
    return !seen.has(key) && seen.add(key).size <= maxTokens
  })
  const words = tokens.filter((token) => token.kind === "word").map((token) => token.text)
  return { tokens, words }
}

/** The terms of a query. Stop words are left out unless there is nothing else. */
export function toQueryTerms({ tokens }: ParsedQuery, stems: Stems): readonly QueryTerm[] {
  const identified = new Set(
    tokens.filter((token) => token.kind === "exact").flatMap((token) => positionsOf(token)),
  )
  const terms = new Map<string, QueryTerm>()
  for (const { kind, text, position } of tokens) {
    const term = termOf({ kind, text }, stems)
    const isPart = kind === "word" && identified.has(position)
    const weight = kind === "keyword" ? keywordWeight : isPart ? partWeight : 1
    if (!terms.has(term)) terms.set(term, { term, weight, position, kind })
  }
  const all = [...terms.values()]
  const telling = all.filter(({ term }) => !term.startsWith("!"))
  return telling.length > 0 ? telling : all
}

/** The same term under its nearest spelling. */
export function corrected(term: QueryTerm, spelling: string): QueryTerm {
  return { ...term, term: spelling, weight: term.weight * correctedWeight }
}

function positionsOf({ text, position }: Token): readonly number[] {
  const words = text.match(/[\p{L}\p{N}\p{M}]+/gu) ?? []
  return words.map((_, index) => position + index)
}
