// Every alert, fired by events and cleared by events, through the service and its database.
import { afterAll, afterEach, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type Alert, AlertSeverity, AlertState } from "../../gen/runwarden/telemetry/v1/alert_pb.ts"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { metadataOf, reasonOf } from "../../mesh/errors.ts"
import { actingAs, type Subject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { type AlertCode, alertCodes } from "./alert.ts"
import {
  approval,
  call,
  run,
  someone,
  startTelemetry,
  times,
  verdict,
} from "./telemetry-harness.ts"

let mesh: Awaited<ReturnType<typeof startTelemetry>>
beforeAll(async () => {
  mesh = await startTelemetry()
})
afterAll(() => mesh[Symbol.asyncDispose]())
afterEach(() => {
  mesh.clock.aheadMs = 0
})

const minute = 60_000
const failed = () => run("failed", { reason: "tool_failed" })
const denied = (atMs?: number) =>
  run("failed", { reason: "policy_denied", ...(atMs === undefined ? {} : { atMs }) })
const stuck = newId()

interface Fixture {
  /** One event fewer than what fires, or the like: it must not. */
  readonly quiet: readonly Event[]
  readonly fire: readonly Event[]
  /** Brings the figure back, or lets time pass. */
  readonly clear: readonly Event[] | { readonly passMs: number }
  readonly alert: { readonly value: number; readonly sample: number; readonly threshold: number }
}

const fixtures: Readonly<Record<AlertCode, () => Fixture>> = {
  run_failure_rate_high: () => ({
    quiet: [...times(4, failed), ...times(15, () => run("succeeded"))],
    fire: [run("succeeded")],
    clear: times(10, () => run("succeeded")),
    alert: { value: 0.2, sample: 20, threshold: 0.2 },
  }),
  outcome_unknown_open: () => ({
    quiet: [call("executing", { runId: stuck, atMs: Date.now() - 1_000 })],
    fire: [call("outcome_unknown", { runId: stuck })],
    clear: [call("succeeded", { runId: stuck })],
    alert: { value: 1, sample: 1, threshold: 1 },
  }),
  moderation_unavailable: () => ({
    quiet: times(5, () => verdict("allowed")),
    fire: [verdict("blocked", { unavailable: true })],
    clear: { passMs: 16 * minute },
    alert: { value: 1, sample: 6, threshold: 1 },
  }),
  tool_failure_rate_high: () => ({
    quiet: [...times(10, () => call("failed")), ...times(9, () => call("succeeded"))],
    fire: [call("succeeded")],
    clear: times(50, () => call("succeeded")),
    alert: { value: 0.5, sample: 20, threshold: 0.2 },
  }),
  run_latency_p95_high: () => ({
    quiet: [
      ...times(17, () => run("succeeded", { elapsedMs: 10 })),
      ...times(2, () => run("succeeded", { elapsedMs: 300_000 })),
    ],
    fire: [run("succeeded", { elapsedMs: 10 })],
    clear: times(30, () => run("succeeded", { elapsedMs: 10 })),
    alert: { value: 300_000, sample: 20, threshold: 300_000 },
  }),
  moderation_block_rate_high: () => ({
    quiet: [...times(5, () => verdict("blocked")), ...times(14, () => verdict("allowed"))],
    fire: [verdict("flagged")],
    clear: times(10, () => verdict("allowed")),
    alert: { value: 0.25, sample: 20, threshold: 0.25 },
  }),
  approval_wait_p95_high: () => ({
    quiet: times(4, () => approval("approved", 3_600_000)),
    fire: [approval("rejected", 3_600_001)],
    clear: times(100, () => approval("approved", 1_000)),
    alert: { value: 3_600_001, sample: 5, threshold: 3_600_000 },
  }),
  policy_denial_spike: () => ({
    quiet: times(9, () => denied()),
    fire: [denied()],
    // Late news of the hours before: what looked like a spike is what is usual there.
    clear: times(12 * 9, (index) => denied(Date.now() - (16 + (index % 170)) * minute)),
    alert: { value: 10, sample: 10, threshold: 3 },
  }),
}

test.each(alertCodes)(
  "%s fires and clears",
  async (code) => {
    const member = someone()
    const { workspaceId } = member
    const { quiet, fire, clear, alert } = fixtures[code]()
    await mesh.record(workspaceId, quiet)
    await settled()
    expect(await alertsOf(member, code)).toEqual([])
    await mesh.record(workspaceId, fire)
    const fired = await until(async () => (await alertsOf(member, code))[0])
    expect(fired).toMatchObject({ code, state: AlertState.OPEN, windowSeconds: 900, ...alert })
    expect(fired.thresholdName.startsWith(fired.severity === AlertSeverity.P1 ? "p1" : "p2")).toBe(
      true,
    )
    expect(fired.message).toContain(fired.thresholdName)
    if ("passMs" in clear) mesh.clock.aheadMs = clear.passMs
    else await mesh.record(workspaceId, clear)
    const over = await until(async () =>
      (await alertsOf(member, code)).find(({ state }) => state === AlertState.RESOLVED),
    )
    expect(over.alertId).toBe(fired.alertId)
    expect(over.resolveTime).toBeDefined()
    expect(over.sample === 0 || over.value < over.clearLevel).toBe(true)
  },
  30_000,
)

test("between clear level and threshold an alert stays, with its latest figure", async () => {
  const member = someone()
  const { workspaceId } = member
  const code = "moderation_block_rate_high"
  await mesh.record(workspaceId, [
    ...times(5, () => verdict("blocked")),
    ...times(15, () => verdict("allowed")),
  ])
  await until(async () => (await alertsOf(member, code))[0])
  await mesh.record(
    workspaceId,
    times(3, () => verdict("allowed")),
  )
  const read = await until(async () =>
    (await alertsOf(member, code)).find((it) => it.sample === 23),
  )
  expect(read).toMatchObject({ state: AlertState.OPEN, value: 5 / 23 })
})

test("what fires again is a new alert, and many evaluations at once make one", async () => {
  const member = someone()
  const { workspaceId } = member
  const code = "outcome_unknown_open"
  const turn = async (runId: string) => {
    await Promise.all(times(5, () => mesh.record(workspaceId, [verdict("allowed")])))
    await mesh.record(workspaceId, [call("outcome_unknown", { runId })])
    await until(async () => (await alertsOf(member, code)).some(isLive))
    await mesh.record(workspaceId, [call("failed", { runId })])
    await until(async () => !(await alertsOf(member, code)).some(isLive))
  }
  await turn(newId())
  await turn(newId())
  expect(await alertsOf(member, code)).toHaveLength(2)
})

test("an alert is acknowledged once, by whoever was first, until it is resolved", async () => {
  const member = someone()
  const { workspaceId } = member
  const runId = newId()
  await mesh.record(workspaceId, [call("outcome_unknown", { runId })])
  const { alertId, etag } = await until(async () => (await alertsOf(member))[0])
  const request = { workspaceId, requestId: newId(), alertId, etag }
  const first = await mesh.alerts.acknowledgeAlert(request, actingAs(member))
  expect(first.alert).toMatchObject({
    state: AlertState.ACKNOWLEDGED,
    acknowledgedBy: member.actorId,
  })
  expect(await mesh.alerts.acknowledgeAlert(request, actingAs(member))).toEqual(first)
  const other = someone(Role.MEMBER, workspaceId)
  const second = await acknowledge(other, alertId)
  expect(second.alert?.acknowledgedBy).toBe(member.actorId)
  const stale = mesh.alerts.acknowledgeAlert({ ...request, requestId: newId() }, actingAs(member))
  expect(await stale.then(() => "answered", reasonOf)).toBe("ETAG_MISMATCH")
  await mesh.record(workspaceId, [call("succeeded", { runId })])
  await until(async () => !(await alertsOf(member)).some(isLive))
  const error = await acknowledge(member, alertId).catch((reason: unknown) => reason)
  expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
  expect(metadataOf(error)).toMatchObject({ current: "resolved", requested: "acknowledged" })
})

test("alerts are the workspace's own; a viewer reads and acknowledges nothing", async () => {
  const member = someone()
  const { workspaceId } = member
  const viewer = someone(Role.VIEWER, workspaceId)
  const stranger = someone()
  await mesh.record(workspaceId, [call("outcome_unknown")])
  const { alertId } = await until(async () => (await alertsOf(viewer))[0])
  expect(await alertsOf(stranger)).toEqual([])
  const refused = [acknowledge(viewer, alertId), acknowledge(stranger, alertId)]
  const reasons = await Promise.all(refused.map((each) => each.then(() => "answered", reasonOf)))
  expect(reasons).toEqual(["ROLE_TOO_LOW", "NOT_FOUND"])
})

test("a list pages newest first, and filters by state and code", async () => {
  const member = someone()
  const { workspaceId } = member
  await mesh.record(workspaceId, [
    call("outcome_unknown"),
    ...times(20, () => verdict("blocked", { unavailable: true })),
  ])
  const all = await until(async () => {
    const alerts = await alertsOf(member)
    return alerts.length === 3 && alerts
  })
  const first = await mesh.alerts.listAlerts({ workspaceId, pageSize: 2 }, actingAs(member))
  const { nextPageToken: pageToken } = first
  const second = await mesh.alerts.listAlerts(
    { workspaceId, pageSize: 2, pageToken },
    actingAs(member),
  )
  expect([...first.alerts, ...second.alerts].map(({ alertId }) => alertId)).toEqual(
    all.map(({ alertId }) => alertId),
  )
  const resolved = { workspaceId, state: AlertState.RESOLVED }
  expect((await mesh.alerts.listAlerts(resolved, actingAs(member))).alerts).toEqual([])
  const foreign = mesh.alerts.listAlerts({ ...resolved, pageToken }, actingAs(member))
  expect(await foreign.then(() => "answered", reasonOf)).toBe("INVALID_PAGE_TOKEN")
})

async function alertsOf(who: Subject, code = ""): Promise<Alert[]> {
  const { workspaceId } = who
  return (await mesh.alerts.listAlerts({ workspaceId, code }, actingAs(who))).alerts
}

function acknowledge(who: Subject, alertId: string) {
  const request = { workspaceId: who.workspaceId, requestId: newId(), alertId }
  return mesh.alerts.acknowledgeAlert(request, actingAs(who))
}

function isLive({ state }: Alert): boolean {
  return state !== AlertState.RESOLVED
}

/** Long enough for the debounced evaluation and the timer: what has not fired by then does not. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 300))
}
