import { getEventListeners } from "node:events"
import { expect, it } from "vitest"
import { createNotifier } from "./notifier.ts"

const { signal } = new AbortController()

it("keeps a notice that comes while nobody waits, once", async () => {
  const notifier = createNotifier()
  using listener = notifier.listen("a")
  notifier.notify("a")
  notifier.notify("b")
  await listener.wait(60_000, signal)
  const askedAt = performance.now()
  await listener.wait(30, signal)
  expect(performance.now() - askedAt).toBeGreaterThan(25)
})

it("leaves nothing on the signal of whoever waits", async () => {
  const notifier = createNotifier()
  using listener = notifier.listen("a")
  const caller = new AbortController()
  for (let n = 0; n < 5; n++) await listener.wait(1, caller.signal)
  expect(getEventListeners(caller.signal, "abort")).toEqual([])
})

it("wakes every listener of a run, and those whose caller has gone", async () => {
  const notifier = createNotifier()
  const caller = new AbortController()
  using first = notifier.listen("a")
  using second = notifier.listen("a")
  using other = notifier.listen("b")
  const waits = [first.wait(60_000, signal), second.wait(60_000, signal)]
  const gone = other.wait(60_000, caller.signal)
  notifier.notify("a")
  caller.abort()
  await Promise.all([...waits, gone])
})
