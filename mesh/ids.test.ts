import { afterEach, expect, it, vi } from "vitest"
import { newId } from "./ids.ts"

afterEach(() => {
  vi.useRealTimers()
})

it("an id is a UUIDv7 of now", () => {
  const before = Date.now()
  const id = newId()
  expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  const made = Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)
  expect(made).toBeGreaterThanOrEqual(before)
  expect(made).toBeLessThanOrEqual(Date.now() + 1)
})

it("ids ascend, also those of one millisecond, and none is there twice", () => {
  const ids = Array.from({ length: 100_000 }, newId)
  expect(ids.toSorted()).toEqual(ids)
  expect(new Set(ids).size).toBe(ids.length)
})

it("ids ascend when the clock is set back", () => {
  vi.useFakeTimers({ now: Date.now() + 60_000 })
  const before = newId()
  vi.setSystemTime(Date.now() - 30_000)
  expect(newId() > before).toBe(true)
})

it("two ids of one millisecond have different random ends", () => {
  vi.useFakeTimers({ now: Date.now() + 120_000 })
  const ends = Array.from({ length: 1_000 }, () => newId().slice(-10))
  expect(new Set(ends).size).toBe(1_000)
})
