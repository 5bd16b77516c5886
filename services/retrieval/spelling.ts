/** Terms whose first letters are compared; a slip in these is not corrected. */
export const comparedPrefix = 2

/** Shortest term that is corrected: in shorter ones another letter is another word. */
export const shortestCorrected = 5

/**
 * The nearest of some terms: one edit away, or two where the word is long; undefined where none is
 * near. Swapped neighbours count as one edit. Among equals the first in order is taken.
 */
export function nearestSpelling(term: string, candidates: readonly string[]): string | undefined {
  const allowed = term.length >= 9 ? 2 : 1
  let best: { readonly term: string; readonly distance: number } | undefined
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - term.length) > allowed) continue
    const distance = editDistance(term, candidate)
    if (distance <= allowed && distance < (best?.distance ?? Number.POSITIVE_INFINITY))
      best = { term: candidate, distance }
  }
  return best?.term
}

/** Optimal string alignment: insertions, deletions, replacements and swaps of neighbours. */
export function editDistance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const isSame = a[row - 1] === b[column - 1]
      let distance = Math.min(
        (above[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (above[column - 1] ?? 0) + (isSame ? 0 : 1),
      )
      const isSwap =
        row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (isSwap) distance = Math.min(distance, (before[column - 2] ?? 0) + 1)
      current.push(distance)
    }
    before = above
    above = current
  }
  return above[b.length] ?? 0
}
