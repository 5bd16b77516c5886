/** What a classification is worth: counts, rates, and the area under the precision–recall curve. */

/** One text as it is, and as it was found to be. */
export interface Judged {
  readonly isPositive: boolean
  readonly isFound: boolean
}

export interface Figures {
  readonly positives: number
  readonly negatives: number
  readonly precision: number
  readonly recall: number
  readonly f1: number
  readonly falsePositiveRate: number
}

export function figuresOf(judged: readonly Judged[]): Figures {
  const count = (isPositive: boolean, isFound: boolean) =>
    judged.filter((each) => each.isPositive === isPositive && each.isFound === isFound).length
  const hits = count(true, true)
  const misses = count(true, false)
  const falseAlarms = count(false, true)
  const negatives = falseAlarms + count(false, false)
  return {
    positives: hits + misses,
    negatives,
    precision: ratio(hits, hits + falseAlarms),
    recall: ratio(hits, hits + misses),
    f1: ratio(2 * hits, 2 * hits + falseAlarms + misses),
    falsePositiveRate: ratio(falseAlarms, negatives),
  }
}

/** One text as it is, and how much it is like those of a label. */
export interface Scored {
  readonly isPositive: boolean
  readonly score: number
}

/** Average precision: the area under the curve as the sum over its steps. Equal scores make one step. */
export function averagePrecision(scored: readonly Scored[]): number {
  let area = 0
  let reached = 0
  for (const { precision, recall } of curveOf(scored)) {
    area += precision * (recall - reached)
    reached = recall
  }
  return area
}

/** The lowest threshold at which precision is at least this, and the recall there. */
export function atPrecision(
  scored: readonly Scored[],
  least: number,
): { readonly threshold: number; readonly recall: number } {
  const best = curveOf(scored).findLast(({ precision }) => precision >= least)
  return { threshold: best?.threshold ?? Number.POSITIVE_INFINITY, recall: best?.recall ?? 0 }
}

/** The lowest threshold that at most this share of the negatives reaches, and the recall there. */
export function atFalsePositiveRate(
  scored: readonly Scored[],
  most: number,
): { readonly threshold: number; readonly recall: number } {
  const best = curveOf(scored).findLast(({ falsePositiveRate }) => falsePositiveRate <= most)
  return { threshold: best?.threshold ?? Number.POSITIVE_INFINITY, recall: best?.recall ?? 0 }
}

interface Step {
  readonly threshold: number
  readonly precision: number
  readonly recall: number
  readonly falsePositiveRate: number
}

function curveOf(scored: readonly Scored[]): readonly Step[] {
  const sorted = scored.toSorted((a, b) => b.score - a.score)
  const positives = scored.filter(({ isPositive }) => isPositive).length
  const steps: Step[] = []
  let hits = 0
  for (const [index, { isPositive, score }] of sorted.entries()) {
    if (isPositive) hits++
    if (sorted[index + 1]?.score === score) continue
    steps.push({
      threshold: score,
      precision: hits / (index + 1),
      recall: ratio(hits, positives),
      falsePositiveRate: ratio(index + 1 - hits, scored.length - positives),
    })
  }
  return steps
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}
