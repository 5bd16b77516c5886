/** How good a ranking is, by graded judgements. */

export interface Quality {
  readonly ndcg10: number
  readonly recall10: number
  readonly recall100: number
  readonly mrr: number
  readonly hit1: number
}

/** Judges one answer, best first; `grades` are the positive ones of all documents. */
export function judgeRanking(
  found: readonly string[],
  grades: ReadonlyMap<string, number>,
): Quality {
  const gains = found.map((id) => grades.get(id) ?? 0)
  const best = [...grades.values()].sort((a, b) => b - a)
  const first = gains.findIndex((gain) => gain > 0)
  const recall = (depth: number) =>
    gains.slice(0, depth).filter((gain) => gain > 0).length / grades.size
  return {
    ndcg10: discounted(gains, 10) / discounted(best, 10),
    recall10: recall(10),
    recall100: recall(100),
    mrr: first < 0 ? 0 : 1 / (first + 1),
    hit1: first === 0 ? 1 : 0,
  }
}

/** The mean of each measure. */
export function meanOf(judged: readonly Quality[]): Quality {
  const mean = (pick: (one: Quality) => number) =>
    judged.reduce((sum, one) => sum + pick(one), 0) / judged.length
  return {
    ndcg10: mean((one) => one.ndcg10),
    recall10: mean((one) => one.recall10),
    recall100: mean((one) => one.recall100),
    mrr: mean((one) => one.mrr),
    hit1: mean((one) => one.hit1),
  }
}

/** The value below which `share` of the values lie. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

function discounted(gains: readonly number[], depth: number): number {
  return gains.slice(0, depth).reduce((sum, gain, rank) => sum + gain / Math.log2(rank + 2), 0)
}
