/** Retry budgets: repeats never become the load, and a peer that is well again is found soon. */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { createRetryBudgets } from "./retry-budget.ts"

const peer = "orders"

function budgets() {
  let time = 0
  return {
    ...createRetryBudgets(() => time),
    wait: (ms: number) => {
      time += ms
    },
  }
}

describe("the budget of a peer", () => {
  it("lets four failures be repeated, and then one probe in two seconds", () => {
    const budget = budgets()
    const repeats = Array.from({ length: 8 }, () => {
      budget.failed(peer)
      return budget.mayRetry(peer)
    })
    expect(repeats).toEqual([true, true, true, true, true, false, false, false])
    budget.wait(1_999)
    expect(budget.mayRetry(peer)).toBe(false)
    budget.wait(1)
    expect([budget.mayRetry(peer), budget.mayRetry(peer)]).toEqual([true, false])
  })

  it("is full again after a probe that succeeded, not after one that failed", () => {
    const budget = budgets()
    for (let n = 0; n < 10; n++) budget.failed(peer)
    expect(budget.mayRetry(peer)).toBe(true)
    budget.failed(peer)
    expect(budget.mayRetry(peer)).toBe(false)
    budget.wait(2_000)
    expect(budget.mayRetry(peer)).toBe(true)
    budget.succeeded(peer)
    for (let n = 0; n < 4; n++) budget.failed(peer)
    expect(budget.mayRetry(peer)).toBe(true)
  })

  it("gets a tenth back for each success", () => {
    const budget = budgets()
    for (let n = 0; n < 6; n++) budget.failed(peer)
    const mayRetry = () => {
      const may = budget.mayRetry(peer)
      return may
    }
    expect([mayRetry(), mayRetry()]).toEqual([true, false])
    budget.failed(peer)
    for (let n = 0; n < 20; n++) budget.succeeded(peer)
    expect(mayRetry()).toBe(false)
    budget.succeeded(peer)
    expect(mayRetry()).toBe(true)
  })

  it("is its own", () => {
    const budget = budgets()
    for (let n = 0; n < 20; n++) budget.failed(peer)
    budget.mayRetry(peer)
    expect([budget.mayRetry(peer), budget.mayRetry("others")]).toEqual([false, true])
  })
})

describe("any outage", () => {
  const call = fc.record({
    waitMs: fc.nat(400),
    succeeds: fc.double({ min: 0, max: 1, noNaN: true }),
  })

  it("is asked for at most a tenth more than without repeats, beside first ones and probes", () => {
    fc.assert(
      fc.property(
        fc.array(call, { minLength: 50, maxLength: 400 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (calls, health) => {
          const budget = budgets()
          let [time, repeats, successes, probesSucceeded] = [0, 0, 0, 0]
          for (const { waitMs, succeeds } of calls) {
            budget.wait(waitMs)
            time += waitMs
            for (let attempt = 1; attempt <= 8; attempt++) {
              if (succeeds < health) {
                budget.succeeded(peer)
                successes++
                break
              }
              budget.failed(peer)
              if (!budget.mayRetry(peer)) break
              repeats++
            }
            probesSucceeded = Math.floor(time / 2_000) + 1
          }
          // Ten tokens at first, a tenth for each success, ten more after each probe that went well.
          const probes = probesSucceeded
          const refills = successes === 0 ? 0 : probes * 10
          expect(repeats).toBeLessThanOrEqual(10 + successes / 10 + probes + refills)
        },
      ),
      { seed: 20_264, numRuns: 500 },
    )
  })

  it("that is total costs no more than ten repeats and the probes", () => {
    const budget = budgets()
    let repeats = 0
    for (let second = 0; second < 300; second++) {
      budget.wait(1_000)
      for (let n = 0; n < 10; n++) {
        budget.failed(peer)
        if (budget.mayRetry(peer)) repeats++
      }
    }
    // 3,000 first attempts in five minutes.
    expect(repeats / 3_000).toBeLessThan(0.1)
    expect(repeats).toBeLessThanOrEqual(10 + 300 / 2)
  })
})
