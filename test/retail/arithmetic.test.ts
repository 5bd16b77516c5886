import { expect, test } from "vitest"
import { evaluate, toCents } from "./arithmetic.ts"

test.each([
  ["1 + 2 * 3", 7],
  ["(1 + 2) * 3", 9],
  ["8 / 4 / 2", 1],
  ["2 - -3", 5],
  ["-(2 + .5)", -2.5],
  ["155.33 - 147.05 + 268.77 - 235.13", 155.33 - 147.05 + 268.77 - 235.13],
])("%s is %d", (expression, value) => {
  expect(evaluate(expression)).toBe(value)
})

test.each(["", " ", "1 +", "(1", "1)", "1 2", "2 ** 3", "1e3", "x", "1..2", ".", "1 / 0", "()"])(
  "%j is no sum",
  (expression) => {
    expect(evaluate(expression)).toBeUndefined()
  },
)

test("a sum of any length ends, and one that nobody types is none", () => {
  expect(evaluate(`${"(".repeat(1_000)}1${")".repeat(1_000)}`)).toBeUndefined()
  expect(evaluate(`${"1+".repeat(200)}1`)).toBe(201)
})

test.each([
  [71.96000000000001, 71.96],
  [1.005, 1],
  [2.675, 2.67],
  [0.125, 0.12],
  [0.375, 0.38],
  [-0.125, -0.12],
  [-0.375, -0.38],
  [1_000.625, 1_000.62],
  [3, 3],
])("%d to cents is %d", (value, cents) => {
  expect(toCents(value)).toBe(cents)
})
