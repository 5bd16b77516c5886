import type { TokenPlaces } from "./analysis.ts"
import type { Token } from "./tokens.ts"

/** What a word is found by; a stop word is marked, as it is looked for only when nothing else is. */
export interface Stem {
  readonly text: string
  readonly isStopWord: boolean
}

/** The stems of words, as the database's dictionary gives them. */
export type Stems = ReadonlyMap<string, Stem>

/** Stems as the dictionary says them: null for a word it leaves alone, none for a stop word. */
export type StemRows = Readonly<Record<string, readonly string[] | null>>

export function toStems(rows: StemRows | null): Stems {
  return new Map(
    Object.entries(rows ?? {}).map(([word, stems]) => [
      word,
      { text: stems?.[0] ?? word, isStopWord: stems?.length === 0 },
    ]),
  )
}

/** A row of the inverted index. */
export interface Posting {
  readonly term: string
  readonly titleCount: number
  readonly headingCount: number
  readonly leadCount: number
  readonly bodyCount: number
  readonly positions: readonly number[]
}

/** The term that a token is stored under. The marks occur in no word, so that kinds never mix. */
export function termOf(token: Pick<Token, "kind" | "text">, stems: Stems): string {
  if (token.kind === "exact") return `=${token.text}`
  if (token.kind === "keyword") return `^${token.text}`
  const stem = stems.get(token.text)
  if (stem === undefined) return token.text
  return stem.isStopWord ? `!${stem.text}` : stem.text
}

/** Brings the tokens of a document together by their terms. */
export function toPostings(tokens: readonly TokenPlaces[], stems: Stems): readonly Posting[] {
  const postings = new Map<string, Posting>()
  for (const token of tokens) {
    const term = termOf(token, stems)
    const known = postings.get(term)
    postings.set(term, known === undefined ? { ...token, term } : merge(known, token))
  }
  return [...postings.values()]
}

function merge(posting: Posting, token: TokenPlaces): Posting {
  return {
    term: posting.term,
    titleCount: posting.titleCount + token.titleCount,
    headingCount: posting.headingCount + token.headingCount,
    leadCount: posting.leadCount + token.leadCount,
    bodyCount: posting.bodyCount + token.bodyCount,
    positions: [...posting.positions, ...token.positions].sort((a, b) => a - b),
  }
}
