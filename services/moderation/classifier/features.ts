/**
 * What the embedded classifier sees of a text: which word and letter sequences occur in it, each as a
 * number below `featureCount`. Sequences that share a number are told apart by the others around them.
 *
 * A model is bound to this: whoever changes anything here trains again and raises `featureVersion`.
 */

/** Raised with every change of what a text's features are; weights of another one are refused. */
export const featureVersion = 1

const halfBits = 18
/** Words have the lower half of the numbers, letters the upper one. */
export const featureCount = 2 ** (halfBits + 1)

const maxWordsInARow = 3
const fewestLetters = 3
const mostLetters = 5

const url = /\bhttps?:\/\/\S+/g
const mention = /(?<![\p{L}\p{N}])@[\w-]+/gu
const digits = /\p{N}+/gu
const token = /[\p{L}\p{M}\p{N}_']+|[^\s\p{L}\p{M}\p{N}_']/gu

/** The features of a text that is normalised and in lower case, each once, in no order. */
export function featuresOf(text: string): Uint32Array {
  const plain = text.replace(url, " \u0001 ").replace(mention, " \u0002 ").replace(digits, "0")
  const words = plain.match(token) ?? []
  const found = begin()
  for (let start = 0; start < words.length; start++) {
    let hash = seed
    for (let length = 0; length < maxWordsInARow; length++) {
      const word = words[start + length]
      if (word === undefined) break
      hash = mixText(hash, word, 0, word.length)
      add(found, finish(hash))
    }
    addLetters(found, words[start] ?? "")
  }
  return Uint32Array.from(found)
}

// Kept between texts: by whose turn a number was seen last, it is known whether this text had it.
const seenIn = new Uint32Array(featureCount)
let turn = 0

type Found = number[]

function begin(): Found {
  turn += 1
  if (turn === 2 ** 32) {
    seenIn.fill(0)
    turn = 1
  }
  return []
}

function add(found: Found, feature: number): void {
  if (seenIn[feature] === turn) return
  seenIn[feature] = turn
  found.push(feature)
}

/** Sequences of letters within one word, whose ends count as letters. */
function addLetters(found: Found, word: string): void {
  const framed = ` ${word.slice(0, 64)} `
  for (let start = 0; start + fewestLetters <= framed.length; start++) {
    const most = Math.min(mostLetters, framed.length - start)
    let hash = mixText(seed, framed, start, start + fewestLetters - 1)
    for (let length = fewestLetters; length <= most; length++) {
      hash = mix(hash, framed.charCodeAt(start + length - 1))
      add(found, finish(hash) + featureCount / 2)
    }
  }
}

// FNV-1a over UTF-16 units, mixed at the end as MurmurHash3 does: few bits of it are kept.
const seed = 0x811c9dc5

function mix(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193)
}

function mixText(hash: number, text: string, from: number, to: number): number {
  let mixed = mix(hash, 0x20)
  for (let at = from; at < to; at++) mixed = mix(mixed, text.charCodeAt(at))
  return mixed
}

function finish(hash: number): number {
  let mixed = hash ^ (hash >>> 16)
  mixed = Math.imul(mixed, 0x85ebca6b)
  mixed ^= mixed >>> 13
  mixed = Math.imul(mixed, 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> (32 - halfBits)
}
