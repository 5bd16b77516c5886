/**
 * Owns: the stems of words that were ingested lately, so that few have to be asked for.
 *
 * 1. It holds at most `maxWords`; when it is full it starts anew.
 * 2. Only ingestions use it. What a search costs must not tell which words others have stored, and
 *    an ingestion asks for the words that are missing in a statement that it sends anyway.
 * 3. What was recalled stays recalled: another ingestion that fills the cache takes nothing away.
 */
import { type Stem, type StemRows, type Stems, toStems } from "./terms.ts"

/** What is known of some words. */
export interface Recalled {
  readonly stems: Stems
  /** The words whose stems are not known, each once. */
  readonly missing: readonly string[]
}

export interface StemCache {
  recall(words: readonly string[]): Recalled
  /** Completes what was recalled by what the dictionary says of the missing words, and keeps that. */
  learn(recalled: Recalled, given: StemRows | null): Stems
}

export function createStemCache(maxWords = 50_000): StemCache {
  const known = new Map<string, Stem>()
  return {
    recall(words) {
      const stems = new Map<string, Stem>()
      const missing = new Set<string>()
      for (const word of words) {
        const stem = known.get(word)
        if (stem === undefined) missing.add(word)
        else stems.set(word, stem)
      }
      return { stems, missing: [...missing] }
    },
    learn(recalled, given) {
      const added = toStems(given)
      if (known.size + added.size > maxWords) known.clear()
      if (added.size <= maxWords) for (const [word, stem] of added) known.set(word, stem)
      return new Map([...recalled.stems, ...added])
    },
  }
}
