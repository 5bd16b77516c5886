import { describe, expect, test } from "vitest"
import { calibrate, type Example, scoreOf, trainLinear } from "./training.ts"

const options = { featureCount: 16, cost: 1, epochs: 30 }

function example(features: readonly number[], isPositive: boolean, weight = 1): Example {
  return { features: Uint32Array.from(features), isPositive, weight }
}

describe("training", () => {
  const examples = [
    example([1, 2, 3], true),
    example([1, 4], true),
    example([5, 2, 3], false),
    example([5, 6], false),
  ]

  test("tells apart what can be told apart, also where it was not seen", () => {
    const model = trainLinear(examples, options)
    for (const { features, isPositive } of examples) {
      expect(scoreOf(model, features) > 0).toBe(isPositive)
    }
    expect(scoreOf(model, Uint32Array.of(1, 9))).toBeGreaterThan(0)
    expect(scoreOf(model, Uint32Array.of(5, 9))).toBeLessThan(0)
  })

  test("gives the same model for the same examples", () => {
    expect(trainLinear(examples, options)).toEqual(trainLinear(examples, options))
  })

  test("reaches the optimum: no weight changes by much where it goes on", () => {
    const near = trainLinear(examples, { ...options, epochs: 400 })
    const nearer = trainLinear(examples, { ...options, epochs: 800 })
    near.weights.forEach((weight, feature) => {
      expect(weight).toBeCloseTo(nearer.weights[feature] ?? Number.NaN, 4)
    })
  })

  test("follows what weighs more where examples contradict each other", () => {
    const torn = (weight: number) =>
      scoreOf(
        trainLinear([example([1], true, weight), example([1], false)], options),
        Uint32Array.of(1),
      )
    expect(torn(5)).toBeGreaterThan(0)
    expect(torn(0.2)).toBeLessThan(0)
  })

  test("scores a text without features by what is usual", () => {
    const model = trainLinear(examples, options)
    expect(scoreOf(model, new Uint32Array())).toBe(model.bias)
  })
})

describe("calibration", () => {
  const at = ({ slope, offset }: { slope: number; offset: number }, score: number) =>
    1 / (1 + Math.exp(-(slope * score + offset)))

  test("gives as many positives as it says", () => {
    // Of the scores around s, a share of 1 / (1 + e^-2s) is positive.
    const scored = Array.from({ length: 20_000 }, (_, n) => {
      const score = (n % 200) / 50 - 2
      const share = 1 / (1 + Math.exp(-2 * score))
      return { score, isPositive: Math.floor(n / 200) / 100 < share, weight: 1 }
    })
    const calibration = calibrate(scored)
    expect(calibration.slope).toBeCloseTo(2, 1)
    expect(calibration.offset).toBeCloseTo(0, 1)
    expect(at(calibration, 1)).toBeCloseTo(0.88, 1)
  })

  test("is never quite certain, however well the scores tell apart", () => {
    const scored = [-2, -1, 1, 2].map((score) => ({ score, isPositive: score > 0, weight: 1 }))
    const calibration = calibrate(scored)
    expect(at(calibration, 2)).toBeGreaterThan(0.6)
    expect(at(calibration, 2)).toBeLessThan(1)
  })
})
