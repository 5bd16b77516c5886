import { foldCase, normalise } from "./normalised-text.ts"
import { finish } from "./slices.ts"

interface Node {
  readonly next: Map<string, Node>
  readonly entries: number[]
}

// Bounded, because a script without spaces makes a whole text one word.
const word = /[\p{L}\p{N}]{1,256}/gu
const wordsPerStep = 2_048

/**
 * All word lists of a policy in one trie of words. Looking a text up costs one step per word and
 * per phrase that began and still fits, whatever the number of phrases.
 */
export interface WordBook {
  /** Indices of the entries that stand in a normalised text as whole words. */
  find(normalised: string): Generator<undefined, ReadonlySet<number>>
}

/** Builds the trie; entry i is `lists[i]`. Throws a TypeError where a phrase holds no word. */
export function createWordBook(lists: readonly (readonly string[])[]): WordBook {
  const root: Node = { next: new Map(), entries: [] }
  lists.forEach((phrases, entry) => {
    for (const phrase of phrases) plant(root, phrase, entry)
  })
  return { find: (normalised) => find(root, normalised) }
}

/** The words of a phrase as they are compared. */
export function wordsOf(phrase: string): readonly string[] {
  return (finish(normalise(phrase)).match(word) ?? []).map(foldCase)
}

function plant(root: Node, phrase: string, entry: number): void {
  const words = wordsOf(phrase)
  if (words.length === 0) throw new TypeError(`"${phrase}" holds no letter or digit`)
  let node = root
  for (const each of words) {
    const next = node.next.get(each) ?? { next: new Map(), entries: [] }
    node.next.set(each, next)
    node = next
  }
  node.entries.push(entry)
}

function* find(root: Node, normalised: string): Generator<undefined, ReadonlySet<number>> {
  const found = new Set<number>()
  if (root.next.size === 0) return found
  let begun: Node[] = []
  let steps = 0
  for (const [written] of normalised.matchAll(word)) {
    const each = foldCase(written)
    const still: Node[] = []
    for (const node of [root, ...begun]) {
      const next = node.next.get(each)
      if (next === undefined) continue
      for (const entry of next.entries) found.add(entry)
      if (next.next.size > 0) still.push(next)
    }
    begun = still
    steps += 1
    if (steps % wordsPerStep === 0) yield
  }
  return found
}
