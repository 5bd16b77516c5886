/**
 * Texts that are nearly the same, so that they stand in one fold: by the smallest hashes of their
 * pairs of words (MinHash, 10 bands of 4), in which texts that share most of their pairs agree.
 */

const bands = 10
const rowsPerBand = 4

/** The number of the group of each text; two texts have the same one where they are nearly the same. */
export function groupNearDuplicates(texts: readonly string[]): readonly number[] {
  const parents = Uint32Array.from(texts.keys())
  const rootOf = (index: number): number => {
    let at = index
    while (parents[at] !== at) {
      parents[at] = parents[parents[at] ?? at] ?? at
      at = parents[at] ?? at
    }
    return at
  }
  const firstOf = new Map<string, number>()
  for (const [index, text] of texts.entries()) {
    const smallest = signatureOf(text)
    for (let band = 0; band < bands; band++) {
      const from = band * rowsPerBand
      const key = `${band}:${smallest.subarray(from, from + rowsPerBand).join()}`
      const first = firstOf.get(key)
      if (first === undefined) firstOf.set(key, index)
      else parents[rootOf(index)] = rootOf(first)
    }
  }
  return texts.map((_, index) => rootOf(index))
}

const noise = /@\w+|\brt\b|https?:\/\/\S+/g
const word = /[\p{L}\p{N}]+/gu

function signatureOf(text: string): Uint32Array {
  const smallest = new Uint32Array(bands * rowsPerBand).fill(0xffffffff)
  const words = text.toLowerCase().replace(noise, "").match(word) ?? []
  for (let at = 0; at < Math.max(1, words.length - 1); at++) {
    const pair = hashOf(`${words[at] ?? ""} ${words[at + 1] ?? ""}`)
    for (let row = 0; row < smallest.length; row++) {
      const mixed = mix(pair ^ Math.imul(row + 1, 0x9e3779b1))
      if (mixed < (smallest[row] ?? 0)) smallest[row] = mixed
    }
  }
  return smallest
}

function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  }
  return hash
}

function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}
