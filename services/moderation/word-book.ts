import { foldCase, normalise } from "./normalised-text.ts"
import { finish } from "./slices.ts"

interface Node {
  readonly next: Map<string, Node>
  readonly entries: number[]
}

// Bounded, because a script without spaces makes a whole text one word.
const word = /[\p{L}\p{N}]{1,256}/gu
const maxWordUnits = 256
const wordsPerStep = 2_048
/** A letter or digit of ASCII in lower case; 0 for everything else. */
const asciiWord = Uint8Array.from({ length: 0x80 }, (_, unit) => {
  const letter = String.fromCharCode(unit)
  return /[A-Za-z0-9]/.test(letter) ? letter.toLowerCase().charCodeAt(0) : 0
})

/**
 * All word lists of a policy in one trie of words. Looking a text up costs one step per word and
 * per phrase that began and still fits, whatever the number of phrases.
 */
export interface WordBook {
  /** False only where no entry stands in a normalised text. */
  mayHold(normalised: string): boolean
  /** Indices of the entries that stand in a normalised text as whole words. */
  find(normalised: string): Generator<undefined, ReadonlySet<number>>
}

/** Builds the trie; entry i is `lists[i]`. Throws a TypeError where a phrase holds no word. */
export function createWordBook(lists: readonly (readonly string[])[]): WordBook {
  const root: Node = { next: new Map(), entries: [] }
  lists.forEach((phrases, entry) => {
    for (const phrase of phrases) plant(root, phrase, entry)
  })
  const isFirst = firstWords([...root.next.keys()])
  return {
    mayHold: (normalised) => mayHold(isFirst, normalised),
    find: (normalised) => find(root, normalised),
  }
}

/** The words of a phrase as they are compared. */
export function wordsOf(phrase: string): readonly string[] {
  return (finish(normalise(phrase)).match(word) ?? []).map(foldCase)
}

/**
 * A table of the hashes of the words that phrases begin with. Its size is a power of two, at least
 * sixteen times their number, so that few other words hit it.
 */
function firstWords(words: readonly string[]): Uint8Array {
  const table = new Uint8Array(
    words.length === 0 ? 0 : 2 ** Math.ceil(Math.log2(words.length * 16)),
  )
  for (const each of words) {
    let hash = 0
    for (let at = 0; at < each.length; at += 1) hash = mix(hash, each.charCodeAt(at))
    table[slotOf(hash, table)] = 1
  }
  return table
}

// The words of an ASCII text are those that `word` finds, cut like there, in lower case like `foldCase`.
function mayHold(isFirst: Uint8Array, normalised: string): boolean {
  if (isFirst.length === 0) return false
  let hash = 0
  let units = 0
  for (let at = 0; at < normalised.length; at += 1) {
    const unit = normalised.charCodeAt(at)
    if (unit >= 0x80) return true
    const lower = asciiWord[unit] ?? 0
    if (lower !== 0) {
      hash = mix(hash, lower)
      units += 1
    }
    if (units > 0 && (lower === 0 || units === maxWordUnits)) {
      if (isFirst[slotOf(hash, isFirst)] === 1) return true
      hash = 0
      units = 0
    }
  }
  return units > 0 && isFirst[slotOf(hash, isFirst)] === 1
}

function mix(hash: number, unit: number): number {
  return (Math.imul(hash, 31) + unit) | 0
}

function slotOf(hash: number, table: Uint8Array): number {
  return (hash ^ (hash >>> 15)) & (table.length - 1)
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
