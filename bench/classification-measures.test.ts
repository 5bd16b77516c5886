import { describe, expect, test } from "vitest"
import {
  atFalsePositiveRate,
  atPrecision,
  averagePrecision,
  figuresOf,
} from "./classification-measures.ts"

const scored = [
  { isPositive: true, score: 0.9 },
  { isPositive: false, score: 0.8 },
  { isPositive: true, score: 0.7 },
  { isPositive: true, score: 0.4 },
  { isPositive: false, score: 0.2 },
]

describe("figures of a classification", () => {
  test("are counted by hand", () => {
    const judged = scored.map(({ isPositive, score }) => ({ isPositive, isFound: score > 0.5 }))
    expect(figuresOf(judged)).toEqual({
      positives: 3,
      negatives: 2,
      precision: 2 / 3,
      recall: 2 / 3,
      f1: 2 / 3,
      falsePositiveRate: 1 / 2,
    })
  })

  test("of nothing are nought", () => {
    expect(figuresOf([])).toMatchObject({ precision: 0, recall: 0, f1: 0, falsePositiveRate: 0 })
  })
})

describe("the curve", () => {
  test("has the area of its steps", () => {
    expect(averagePrecision(scored)).toBeCloseTo((1 + 2 / 3 + 3 / 4) / 3, 12)
  })

  test("has one step for texts of one score, in whatever order they stand", () => {
    const tied = [
      { isPositive: false, score: 0.5 },
      { isPositive: true, score: 0.5 },
    ]
    expect(averagePrecision(tied)).toBe(0.5)
    expect(averagePrecision(tied.toReversed())).toBe(0.5)
  })

  test("is read where precision, or the rate of false alarms, is as asked", () => {
    expect(atPrecision(scored, 0.7)).toEqual({ threshold: 0.4, recall: 1 })
    expect(atFalsePositiveRate(scored, 0)).toEqual({ threshold: 0.9, recall: 1 / 3 })
    expect(atFalsePositiveRate(scored, 0.5)).toEqual({ threshold: 0.4, recall: 1 })
    expect(atPrecision(scored, 1.1)).toEqual({ threshold: Number.POSITIVE_INFINITY, recall: 0 })
  })
})
