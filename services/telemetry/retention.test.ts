import { afterAll, beforeAll, expect, test } from "vitest"
import { actingAs, type Subject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { call, run, someone, startTelemetry, times, verdict } from "./telemetry-harness.ts"

const day = 86_400_000

let mesh: Awaited<ReturnType<typeof startTelemetry>>
beforeAll(async () => {
  mesh = await startTelemetry(20 * day)
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("what is past retention is deleted, by and by; what is not stays, and what is unknown", async () => {
  const member = someone()
  const { workspaceId } = member
  const old = Date.now() - 21 * day
  const young = Date.now() - 19 * day
  const stuck = newId()
  await mesh.record(workspaceId, [
    ...times(20, () => run("succeeded", { atMs: old })),
    ...times(3, () => run("succeeded", { atMs: young })),
    call("outcome_unknown", { runId: stuck, atMs: old }),
    verdict("allowed", { atMs: old }),
  ])
  await until(async () => (await monthOf(member))?.runsByState.succeeded === 3)
  expect(await monthOf(member)).toMatchObject({
    toolCallsByState: { outcome_unknown: 1 },
    outcomeUnknownOpen: 1,
    moderationCount: 0,
  })
  await mesh.record(workspaceId, [call("failed", { runId: stuck })])
  expect(await monthOf(member)).toMatchObject({
    toolCallsByState: { failed: 1 },
    outcomeUnknownOpen: 0,
  })
})

test("a workspace where nothing happens any more is come back to", async () => {
  const member = someone()
  const { workspaceId } = member
  // Past retention in half a second, and too old to keep the timer of alerts going.
  await mesh.record(workspaceId, [run("succeeded", { atMs: Date.now() - 20 * day + 500 })])
  expect((await monthOf(member))?.runsByState).toEqual({ succeeded: 1 })
  await until(async () => (await monthOf(member))?.runsByState.succeeded === undefined)
})

async function monthOf(who: Subject) {
  const { workspaceId } = who
  const request = { workspaceId, windowSeconds: 31 * 86_400 }
  return (await mesh.metrics.getMetrics(request, actingAs(who))).metrics
}
