import { expect, test } from "vitest"
import { CallLife } from "./call-life.ts"
import { RunwardenError, reasonOf } from "./errors.ts"
import { until } from "./testing.ts"

const hang = () => new Promise<never>(() => undefined)
const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason

test("an answer ends it, and leaves its signal and its caller's alone", async () => {
  const caller = new AbortController()
  const life = new CallLife(caller.signal, 50)
  const { signal } = life
  expect(await life.race(Promise.resolve(7))).toBe(7)
  caller.abort()
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(signal.aborted).toBe(false)
})

test("the deadline ends it, once, whether somebody asked for the signal or not", async () => {
  const life = new CallLife(undefined, 20)
  const start = performance.now()
  await expect(life.race(hang())).rejects.toSatisfy(isReason("DEADLINE_EXCEEDED"))
  expect(performance.now() - start).toBeGreaterThanOrEqual(20)
  expect(life.signal.aborted).toBe(true)
  expect(reasonOf(life.signal.reason)).toBe("DEADLINE_EXCEEDED")
})

test("its caller ends it, with the reason that the caller had", async () => {
  const caller = new AbortController()
  const life = new CallLife(caller.signal, 10_000)
  const { signal } = life
  const call = life.race(hang())
  caller.abort(new RunwardenError("SHUTTING_DOWN", { service: "tools" }))
  await expect(call).rejects.toSatisfy(isReason("SHUTTING_DOWN"))
  expect(reasonOf(signal.reason)).toBe("SHUTTING_DOWN")
  const late = new CallLife(caller.signal, 10_000)
  await expect(late.race(Promise.reject(new Error("late")))).rejects.toSatisfy(
    isReason("SHUTTING_DOWN"),
  )
})

test("a failure passes as it is and aborts what still works for the call", async () => {
  const life = new CallLife(undefined, 10_000)
  const { signal } = life
  const failure = new Error("broken")
  await expect(life.race(Promise.reject(failure))).rejects.toBe(failure)
  expect(signal.reason).toBe(failure)
})

test("what fails after its end is nobody's unhandled rejection", async () => {
  const unheard: unknown[] = []
  const hear = (reason: unknown) => unheard.push(reason)
  process.on("unhandledRejection", hear)
  const life = new CallLife(undefined, 10)
  const { promise, reject } = Promise.withResolvers<never>()
  await life.race(promise).catch(() => undefined)
  reject(new Error("late"))
  await until(() => life.signal.aborted)
  await new Promise((resolve) => setTimeout(resolve, 20))
  process.off("unhandledRejection", hear)
  expect(unheard).toEqual([])
})
