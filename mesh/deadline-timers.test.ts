import { afterEach, beforeEach, expect, test, vi } from "vitest"
import { forgetDeadline, watchDeadline } from "./deadline-timers.ts"

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(async () => {
  // The timer stops when it finds nothing: the next test starts its own.
  await vi.advanceTimersByTimeAsync(50)
  vi.useRealTimers()
})

/** Notes when it expired, in milliseconds from now. */
function expiring() {
  const start = performance.now()
  const times: number[] = []
  return { times, expire: () => times.push(Math.round(performance.now() - start)) }
}

test("every deadline is reported once, never early and within two ticks", async () => {
  const delays = [0, 1, 9, 10, 11, 99, 500, 1_000, 60_000]
  const all = delays.map((delay) => {
    const one = expiring()
    watchDeadline(delay, one)
    return { delay, ...one }
  })
  await vi.advanceTimersByTimeAsync(61_000)
  for (const { delay, times } of all) {
    expect(times).toHaveLength(1)
    expect(times[0]).toBeGreaterThanOrEqual(delay)
    expect(times[0]).toBeLessThanOrEqual(delay + 20)
  }
})

test("one that was taken back is not reported, and its neighbour is", async () => {
  const [first, second] = [expiring(), expiring()]
  const slot = watchDeadline(50, first)
  watchDeadline(50, second)
  forgetDeadline(slot, first)
  await vi.advanceTimersByTimeAsync(100)
  expect(first.times).toEqual([])
  expect(second.times).toHaveLength(1)
  forgetDeadline(slot, second)
})

test("those that were due while the process stood still are reported at once", async () => {
  const all = [20, 40, 90].map((delay) => {
    const one = expiring()
    watchDeadline(delay, one)
    return one
  })
  vi.spyOn(performance, "now").mockReturnValue(performance.now() + 5_000)
  await vi.advanceTimersToNextTimerAsync()
  vi.restoreAllMocks()
  for (const { times } of all) expect(times).toHaveLength(1)
})

test("a jump of the wall clock ends nothing", async () => {
  const one = expiring()
  watchDeadline(1_000, one)
  vi.setSystemTime(Date.now() + 86_400_000)
  await vi.advanceTimersByTimeAsync(500)
  expect(one.times).toEqual([])
  await vi.advanceTimersByTimeAsync(600)
  expect(one.times).toHaveLength(1)
})

test("nothing runs while there is no deadline", async () => {
  const one = expiring()
  forgetDeadline(watchDeadline(10_000, one), one)
  await vi.advanceTimersByTimeAsync(50)
  expect(vi.getTimerCount()).toBe(0)
  watchDeadline(30, one)
  expect(vi.getTimerCount()).toBe(1)
  await vi.advanceTimersByTimeAsync(100)
  expect(one.times).toHaveLength(1)
  expect(vi.getTimerCount()).toBe(0)
})
