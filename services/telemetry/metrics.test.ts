// The figures against a second count of the same events, in code that shares nothing with the SQL.
import { toJson } from "@bufbuild/protobuf"
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt"
import fc from "fast-check"
import { afterAll, beforeAll, expect, test } from "vitest"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { MetricsSchema } from "../../gen/runwarden/telemetry/v1/metrics_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, type Subject } from "../../mesh/identity.ts"
import { figures, histories, recount, recountNow, windows } from "./metrics-recount.ts"
import { run, someone, startTelemetry, times, verdict } from "./telemetry-harness.ts"

let mesh: Awaited<ReturnType<typeof startTelemetry>>
beforeAll(async () => {
  mesh = await startTelemetry()
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("every figure equals a recount of the events, for any window and any order of arrival", async () => {
  await fc.assert(
    fc.asyncProperty(histories(), windows(), async (history, window) => {
      const member = someone()
      for (const batch of history) await mesh.record(member.workspaceId, batch)
      await compare(member, history.flat(), window)
    }),
    { seed: 9_412, numRuns: 40 },
  )
}, 120_000)

test("the same for two workspaces in one call, cut and repeated in any way, all at once", async () => {
  const deliveries = fc.array(fc.array(fc.tuple(fc.nat(1), fc.nat()), { maxLength: 40 }), {
    maxLength: 6,
  })
  await fc.assert(
    fc.asyncProperty(
      fc.tuple(histories(), histories()),
      deliveries,
      windows(),
      async (both, repeated, window) => {
        const members = both.map(() => someone())
        const events = both.map((history) => history.flat())
        const some = repeated.map((picks) =>
          events.map((own, place) =>
            picks.flatMap(([which, n]) => (which === place ? own.slice(n % 50, (n % 50) + 1) : [])),
          ),
        )
        const cuts = times(4, (cut) => both.map((history) => history[cut] ?? []))
        const counts = await Promise.all(
          [...cuts, ...some].map((batch) =>
            mesh.recordBatch(
              batch.map((own, place) => ({
                workspaceId: members[place]?.workspaceId ?? "",
                events: own,
              })),
            ),
          ),
        )
        expect(counts.reduce((total, count) => total + count)).toBe(events.flat().length)
        for (const [place, member] of members.entries()) {
          await compare(member, events[place] ?? [], window)
        }
      },
    ),
    { seed: 7_305, numRuns: 40 },
  )
}, 120_000)

async function compare(
  member: Subject,
  events: readonly Event[],
  window: { readonly endMs: number; readonly seconds: number; readonly step: number },
): Promise<void> {
  const { workspaceId } = member
  const endTime = timestampFromMs(window.endMs)
  const { metrics } = await mesh.metrics.getMetrics(
    { workspaceId, endTime, windowSeconds: window.seconds },
    actingAs(member),
  )
  const startMs = window.endMs - window.seconds * 1000
  expect(figures(metrics)).toEqual(recountNow(events, startMs, window.endMs))
  const { points } = await mesh.metrics.queryTimeSeries(
    { workspaceId, endTime, windowSeconds: window.seconds, stepSeconds: window.step },
    actingAs(member),
  )
  for (const point of points) {
    const from = timestampMs(point.startTime ?? timestampFromMs(0))
    expect(from % (window.step * 1000)).toBe(0)
    expect(figures(point)).toEqual(recount(events, from, from + window.step * 1000))
  }
  const first = timestampMs(points[0]?.startTime ?? timestampFromMs(0))
  const end = timestampMs(points.at(-1)?.endTime ?? timestampFromMs(0))
  expect(first <= startMs && end >= window.endMs).toBe(true)
  expect(points).toHaveLength((end - first) / (window.step * 1000))
}

test("percentiles are by the nearest rank, and rates leave decisions out of the faults", async () => {
  const member = someone()
  const { workspaceId } = member
  await mesh.record(workspaceId, [
    ...times(97, (index) => run("succeeded", { elapsedMs: index + 1 })),
    run("failed", { elapsedMs: 98, reason: "policy_denied" }),
    run("failed", { elapsedMs: 99, reason: "approval_rejected" }),
    run("failed", { elapsedMs: 100, reason: "tool_failed" }),
    run("cancelled", { elapsedMs: 9_999 }),
  ])
  const { metrics } = await mesh.metrics.getMetrics({ workspaceId }, actingAs(member))
  expect(metrics).toMatchObject({
    runLatencyP50Millis: 50,
    runLatencyP95Millis: 95,
    runSuccessRate: 0.97,
    runFailureRate: 0.01,
    policyDenialCount: 1,
  })
})

test("the JSON names are those of the contract, zeros included", async () => {
  const member = someone()
  const { workspaceId } = member
  await mesh.record(workspaceId, [verdict("allowed"), verdict("flagged")])
  const { metrics } = await mesh.metrics.getMetrics({ workspaceId }, actingAs(member))
  expect(metrics && toJson(MetricsSchema, metrics)).toMatchObject({
    moderationCount: 2,
    moderationBlockedCount: 0,
    moderationFlaggedCount: 1,
    moderationBlockRate: 0,
    policyDenialCount: 0,
    outcomeUnknownOpen: 0,
  })
})

test("windows and steps have limits, and a series has a point where nothing happened", async () => {
  const member = someone()
  const { workspaceId } = member
  const refused = [
    mesh.metrics.getMetrics({ workspaceId, windowSeconds: 32 * 86_400 }, actingAs(member)),
    mesh.metrics.queryTimeSeries(
      { workspaceId, windowSeconds: 86_400, stepSeconds: 60 },
      actingAs(member),
    ),
    mesh.metrics.getMetrics(
      { workspaceId, endTime: { seconds: 9_000_000_000_000n, nanos: 0 } },
      actingAs(member),
    ),
  ]
  const reasons = await Promise.all(refused.map((each) => each.then(() => "answered", reasonOf)))
  expect(reasons).toEqual(["INVALID_REQUEST", "INVALID_REQUEST", "INVALID_REQUEST"])
  const { points } = await mesh.metrics.queryTimeSeries({ workspaceId }, actingAs(member))
  expect([24, 25]).toContain(points.length)
})
