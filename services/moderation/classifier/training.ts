/**
 * Linear models, trained by dual coordinate descent on the squared hinge (Hsieh et al. 2008, as in
 * LIBLINEAR), and calibrated by Platt's method. Deterministic: the same examples give the same model.
 */

/** One text. Each of its features counts 1/√n, so that long texts weigh no more than short ones. */
export interface Example {
  readonly features: Uint32Array
  readonly isPositive: boolean
  /** How much it counts, 1 for an ordinary one. */
  readonly weight: number
}

/** A trained head: a text's score is the sum of its features' weights over √n, and the bias. */
export interface LinearModel {
  readonly weights: Float32Array
  readonly bias: number
}

export interface TrainingOptions {
  readonly featureCount: number
  /** How much an error costs, beside the size of the weights. */
  readonly cost: number
  readonly epochs: number
}

export function trainLinear(
  examples: readonly Example[],
  { featureCount, cost, epochs }: TrainingOptions,
): LinearModel {
  const weights = new Float32Array(featureCount)
  let bias = 0
  const alphas = new Float64Array(examples.length)
  const order = Uint32Array.from(examples.keys())
  const random = mulberry32(1)
  for (let epoch = 0; epoch < epochs; epoch++) {
    shuffle(order, random)
    for (const index of order) {
      const example = examples[index]
      if (example === undefined) continue
      const { features, isPositive, weight } = example
      const label = isPositive ? 1 : -1
      const value = unitOf(features)
      const alpha = alphas[index] ?? 0
      const slack = 1 / (2 * cost * weight)
      const score = sumOf(weights, features) * value + bias
      const gradient = label * score - 1 + slack * alpha
      // The bias is one more feature of value 1, so each text has the length √2.
      const next = Math.max(alpha - gradient / (2 + slack), 0)
      const step = (next - alpha) * label
      if (step === 0) continue
      alphas[index] = next
      bias += step
      const share = step * value
      for (const feature of features) weights[feature] = (weights[feature] ?? 0) + share
    }
  }
  return { weights, bias }
}

/** The score of a text, before calibration. */
export function scoreOf({ weights, bias }: LinearModel, features: Uint32Array): number {
  return sumOf(weights, features) * unitOf(features) + bias
}

/** How a score becomes a probability: 1 / (1 + e^-(slope × score + offset)). */
export interface Calibration {
  readonly slope: number
  readonly offset: number
}

/** Fits a calibration to scores of texts that the model was not trained on, by Newton's method. */
export function calibrate(
  scored: readonly {
    readonly score: number
    readonly isPositive: boolean
    readonly weight: number
  }[],
): Calibration {
  const count = (of: boolean) =>
    scored.reduce((sum, each) => sum + (each.isPositive === of ? each.weight : 0), 0)
  const [positives, negatives] = [count(true), count(false)]
  // Platt's targets: no score is ever quite certain.
  const high = (positives + 1) / (positives + 2)
  const low = 1 / (negatives + 2)
  let slope = 1
  let offset = Math.log((positives + 1) / (negatives + 1))
  for (let round = 0; round < 50; round++) {
    let [g1, g2, h11, h12, h22] = [0, 0, 1e-9, 0, 1e-9]
    for (const { score, isPositive, weight } of scored) {
      const p = 1 / (1 + Math.exp(-(slope * score + offset)))
      const error = weight * (p - (isPositive ? high : low))
      const curve = weight * p * (1 - p)
      g1 += error * score
      g2 += error
      h11 += curve * score * score
      h12 += curve * score
      h22 += curve
    }
    const determinant = h11 * h22 - h12 * h12
    const slopeStep = (h22 * g1 - h12 * g2) / determinant
    const offsetStep = (h11 * g2 - h12 * g1) / determinant
    slope -= slopeStep
    offset -= offsetStep
    if (Math.abs(slopeStep) + Math.abs(offsetStep) < 1e-9) break
  }
  return { slope, offset }
}

function unitOf(features: Uint32Array): number {
  return features.length === 0 ? 0 : 1 / Math.sqrt(features.length)
}

function sumOf(weights: Float32Array, features: Uint32Array): number {
  let sum = 0
  for (const feature of features) sum += weights[feature] ?? 0
  return sum
}

function shuffle(order: Uint32Array, random: () => number): void {
  for (let at = order.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1))
    const held = order[at] ?? 0
    order[at] = order[other] ?? 0
    order[other] = held
  }
}

function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
