import { foldCase, normalise } from "./normalised-text.ts"
import { finish } from "./slices.ts"

interface Node {
  readonly next: Map<string, Node>
  readonly entries: number[]
}

// Bounded, because a script without spaces makes a whole text one word.
const word = /[\p{L}\p{N}]{1,256}/gu
const maxWordUnits = 256
const ascii = /^[\0-\x7f]*$/
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
  const firstWords = createWordTable([...root.next.keys()])
  return {
    mayHold: (normalised) => mayHold(root, firstWords, normalised),
    find: (normalised) => find(root, firstWords, normalised),
  }
}

/** The words of a phrase as they are compared. */
export function wordsOf(phrase: string): readonly string[] {
  return (finish(normalise(phrase)).match(word) ?? []).map(foldCase)
}

/** Hashes of words. Its size is a power of two, far above their number, so that others seldom hit. */
function createWordTable(words: readonly string[]): Uint8Array {
  const table = new Uint8Array(2 ** Math.ceil(Math.log2(words.length * 16 + 1)))
  for (const each of words) {
    let hash = 0
    for (let at = 0; at < each.length; at += 1) hash = mix(hash, each.charCodeAt(at))
    table[slotOf(hash, table)] = 1
  }
  return table
}

function mix(hash: number, unit: number): number {
  return (Math.imul(hash, 31) + unit) | 0
}

function slotOf(hash: number, table: Uint8Array): number {
  return (hash ^ (hash >>> 15)) & (table.length - 1)
}

/** A word of an ASCII text: what `word` finds there, cut like there, and the slot of its lower case. */
interface AsciiWord {
  start: number
  end: number
  slot: number
}

/** Moves on to the next word of an ASCII text; false where there is none. */
function moveOn(at: AsciiWord, table: Uint8Array, text: string): boolean {
  let hash = 0
  let start = at.end
  for (let end = at.end; end <= text.length; end += 1) {
    const lower = end < text.length ? (asciiWord[text.charCodeAt(end)] ?? 0) : 0
    if (lower !== 0 && end - start < maxWordUnits) {
      hash = mix(hash, lower)
    } else if (end === start) {
      start = end + 1
    } else {
      at.start = start
      at.end = end
      at.slot = slotOf(hash, table)
      return true
    }
  }
  return false
}

function mayHold(root: Node, firstWords: Uint8Array, normalised: string): boolean {
  if (root.next.size === 0) return false
  if (!ascii.test(normalised)) return true
  const at = { start: 0, end: 0, slot: 0 }
  while (moveOn(at, firstWords, normalised)) {
    if (firstWords[at.slot] === 0) continue
    if (root.next.has(normalised.slice(at.start, at.end).toLowerCase())) return true
  }
  return false
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

function* find(
  root: Node,
  firstWords: Uint8Array,
  normalised: string,
): Generator<undefined, ReadonlySet<number>> {
  const found = new Set<number>()
  if (root.next.size === 0) return found
  let begun: readonly Node[] = []
  let steps = 0
  if (ascii.test(normalised)) {
    const at = { start: 0, end: 0, slot: 0 }
    while (moveOn(at, firstWords, normalised)) {
      if (begun.length > 0 || firstWords[at.slot] === 1) {
        const each = normalised.slice(at.start, at.end).toLowerCase()
        begun = advance(root, begun, each, found)
      }
      steps += 1
      if (steps % wordsPerStep === 0) yield
    }
    return found
  }
  for (const [written] of normalised.matchAll(word)) {
    begun = advance(root, begun, foldCase(written), found)
    steps += 1
    if (steps % wordsPerStep === 0) yield
  }
  return found
}

/** The phrases that began and still fit after one more word; those that end with it are found. */
function advance(
  root: Node,
  begun: readonly Node[],
  each: string,
  found: Set<number>,
): readonly Node[] {
  const still: Node[] = []
  for (const node of [root, ...begun]) {
    const next = node.next.get(each)
    if (next === undefined) continue
    for (const entry of next.entries) found.add(entry)
    if (next.next.size > 0) still.push(next)
  }
  return still
}
