import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, type Subject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { call, run, someone, startTelemetry, times, verdict } from "./telemetry-harness.ts"

let mesh: Awaited<ReturnType<typeof startTelemetry>>
beforeAll(async () => {
  mesh = await startTelemetry()
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("a batch that is sent again counts once, in whole and in part", async () => {
  const member = someone()
  const { workspaceId } = member
  const first = times(5, () => verdict("blocked"))
  expect(await mesh.record(workspaceId, first)).toBe(5)
  expect(await mesh.record(workspaceId, first)).toBe(0)
  expect(await mesh.record(workspaceId, [...first, verdict("allowed")])).toBe(1)
  const twice = verdict("flagged")
  expect(await mesh.record(workspaceId, [twice, twice])).toBe(1)
  expect(await metricsOf(member)).toMatchObject({
    moderationCount: 7,
    moderationBlockedCount: 5,
    moderationFlaggedCount: 1,
    moderationBlockRate: 5 / 7,
  })
})

test("overlapping batches at once are counted once, whatever their order", async () => {
  const member = someone()
  const runIds = times(20, newId)
  const events = runIds.flatMap((runId) => [
    run("running", { runId }),
    call("succeeded", { runId }),
    run("succeeded", { runId, elapsedMs: 5 }),
  ])
  const batches = times(8, (index) => (index % 2 === 0 ? events : events.toReversed()))
  const counts = await Promise.all(batches.map((batch) => mesh.record(member.workspaceId, batch)))
  expect(counts.reduce((total, count) => total + count)).toBe(60)
  expect(await metricsOf(member)).toMatchObject({
    runsByState: { succeeded: 20 },
    toolCallsByState: { succeeded: 20 },
    runSuccessRate: 1,
  })
})

test("a run counts in its latest state, however late the earlier ones arrive", async () => {
  const member = someone()
  const { workspaceId } = member
  const runId = newId()
  const now = Date.now()
  await mesh.record(workspaceId, [run("requires_action", { runId, atMs: now - 10 })])
  await mesh.record(workspaceId, [run("running", { runId, atMs: now - 20 })])
  expect((await metricsOf(member))?.runsByState).toEqual({ requires_action: 1 })
  await mesh.record(workspaceId, [run("failed", { runId, atMs: now - 30, reason: "tool_failed" })])
  await mesh.record(workspaceId, [run("running", { runId, atMs: now })])
  // Terminal states never change: the clock that says otherwise is wrong.
  expect(await metricsOf(member)).toMatchObject({
    runsByState: { failed: 1 },
    failedRunsByReason: { tool_failed: 1 },
    runFailureRate: 1,
  })
})

test("an unknown outcome is open until it is settled", async () => {
  const member = someone()
  const runId = newId()
  const longAgo = Date.now() - 40 * 86_400_000
  await mesh.record(member.workspaceId, [call("outcome_unknown", { runId, atMs: longAgo })])
  expect(await metricsOf(member)).toMatchObject({ outcomeUnknownOpen: 1, toolCallsByState: {} })
  await mesh.record(member.workspaceId, [call("failed", { runId })])
  expect(await metricsOf(member)).toMatchObject({
    outcomeUnknownOpen: 0,
    toolCallsByState: { failed: 1 },
    toolFailureRate: 1,
  })
})

test("the names and zeros of the contract are in the answer of a quiet workspace", async () => {
  const metrics = await metricsOf(someone())
  expect(metrics).toMatchObject({
    moderationBlockedCount: 0,
    moderationFlaggedCount: 0,
    moderationBlockRate: 0,
    policyDenialCount: 0,
    outcomeUnknownOpen: 0,
  })
  expect(metrics?.runSuccessRate).toBeUndefined()
  expect(metrics?.runLatencyP95Millis).toBeUndefined()
})

test("figures are for members of the workspace only", async () => {
  const member = someone()
  const stranger = someone()
  const viewer = someone(Role.VIEWER, member.workspaceId)
  await mesh.record(member.workspaceId, [verdict("blocked")])
  expect(await metricsOf(viewer)).toMatchObject({ moderationCount: 1 })
  expect(await metricsOf(stranger)).toMatchObject({ moderationCount: 0 })
  const { workspaceId } = member
  const asked = mesh.metrics.getMetrics({ workspaceId }, actingAs(stranger))
  expect(await asked.then(() => "answered", reasonOf)).toBe("WORKSPACE_MISMATCH")
  const nobody = { ...stranger, role: Role.UNSPECIFIED }
  const own = { workspaceId: stranger.workspaceId }
  const roleless = mesh.metrics.getMetrics(own, actingAs(nobody))
  expect(await roleless.then(() => "answered", reasonOf)).toBe("ROLE_TOO_LOW")
})

test("an event without payload, time or uuid is refused, and nothing of its batch is stored", async () => {
  const member = someone()
  const good = verdict("blocked")
  for (const bad of [
    { ...good, payload: { case: undefined, value: undefined } },
    { ...good, eventId: "no" },
    { ...verdict("sideways") },
  ] as const) {
    const sent = mesh.record(member.workspaceId, [good, bad])
    expect(await sent.then(() => "stored", reasonOf)).toBe("INVALID_REQUEST")
  }
  expect(await metricsOf(member)).toMatchObject({ moderationCount: 0 })
})

async function metricsOf(who: Subject) {
  const { workspaceId } = who
  return (await mesh.metrics.getMetrics({ workspaceId }, actingAs(who))).metrics
}
