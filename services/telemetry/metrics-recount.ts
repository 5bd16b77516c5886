/** For tests: histories of events, and the figures counted from them by code that shares nothing with the service. */
import { timestampMs } from "@bufbuild/protobuf/wkt"
import fc from "fast-check"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import type { Metrics } from "../../gen/runwarden/telemetry/v1/metrics_pb.ts"
import { newId } from "../../mesh/ids.ts"
import { event } from "./telemetry-harness.ts"

const hour = 3_600_000
const base = Date.UTC(2026, 2, 28, 23, 17, 5)

const runStates = [
  "queued",
  "running",
  "requires_action",
  "succeeded",
  "failed",
  "cancelled",
  "expired",
]
const callStates = ["proposed", "executing", "outcome_unknown", "succeeded", "failed", "denied"]
const approvalStates = ["pending", "approved", "rejected", "expired", "superseded"]
const reasons = ["", "policy_denied", "approval_rejected", "tool_failed", "outcome_unknown"]

/**
 * Batches of events over few runs and approvals, with equal times, in any order; `isEarly` for those
 * that say nothing of use and budgets, as before there were any.
 */
export function histories({ isEarly = false } = {}): fc.Arbitrary<Event[][]> {
  const amount = (...values: bigint[]) => fc.constantFrom(0n, ...(isEarly ? [] : values))
  const ids = fc.constantFrom("a", "b", "c", "d", "e")
  const atMs = fc.integer({ min: -20, max: 20 }).map((quarter) => base + (quarter * hour) / 4)
  const millis = fc.nat({ max: 60 }).map(BigInt)
  const warned = fc.record({
    case: fc.constant("budgetWarned" as const),
    value: fc.record({
      budget: fc.constantFrom("run_tokens", "run_events"),
      used: millis,
      limit: millis,
    }),
  })
  const payload = fc.oneof(
    fc.record({
      case: fc.constant("runChanged" as const),
      value: fc.record({
        state: fc.constantFrom(...runStates),
        reason: fc.constantFrom(...reasons),
        elapsedMillis: millis,
      }),
    }),
    fc.record({
      case: fc.constant("toolCallChanged" as const),
      value: fc.record({
        state: fc.constantFrom(...callStates),
        stepIndex: fc.nat({ max: 2 }),
        tool: fc.constant("t/x"),
        inputTokens: amount(0n, 7n, 10n ** 12n),
        outputTokens: amount(0n, 5n),
        costMicros: amount(0n, 1_000_000n),
      }),
    }),
    ...(isEarly ? [] : [warned]),
    fc.record({
      case: fc.constant("moderated" as const),
      value: fc.oneof(
        fc.record({
          verdict: fc.constantFrom("allowed", "flagged", "blocked"),
          subject: fc.constant("run_input"),
        }),
        fc.constant({ verdict: "blocked", subject: "run_input", unavailable: true }),
      ),
    }),
    fc.record({
      case: fc.constant("approvalChanged" as const),
      value: fc.record({
        approvalId: ids,
        state: fc.constantFrom(...approvalStates),
        waitMillis: millis,
      }),
    }),
  )
  const plain = fc.record({ run: ids, isOutside: fc.boolean(), atMs, payload })
  return fc
    .array(fc.array(plain, { minLength: 1, maxLength: 25 }), { maxLength: 4 })
    .map((batches) => {
      // Fresh ids per history; the same letter is the same run throughout it.
      const uuids = new Map<string, string>()
      const idOf = (letter: string) => {
        const id = uuids.get(letter) ?? newId()
        uuids.set(letter, id)
        return id
      }
      return batches.map((batch) =>
        batch.map((it) => {
          const isOutside = it.isOutside && it.payload.case === "moderated"
          const where = { runId: isOutside ? "" : idOf(it.run), atMs: it.atMs }
          if (it.payload.case !== "approvalChanged") return event(it.payload, where)
          const value = {
            ...it.payload.value,
            approvalId: idOf(`approval ${it.payload.value.approvalId}`),
          }
          return event({ case: "approvalChanged", value }, where)
        }),
      )
    })
}

export function windows() {
  return fc.record({
    endMs: fc.integer({ min: -24, max: 24 }).map((quarter) => base + (quarter * hour) / 4),
    seconds: fc.constantFrom(900, 3_600, 10_000, 86_400),
    step: fc.constantFrom(900, 1_800, 3_600, 7_000),
  })
}

interface Latest {
  readonly state: string
  readonly reason: string
  readonly millis: number
  readonly atMs: number
}

const endings: Readonly<Record<string, readonly string[]>> = {
  runChanged: ["succeeded", "failed", "cancelled", "expired"],
  toolCallChanged: ["denied", "expired", "succeeded", "failed", "cancelled"],
  approvalChanged: ["approved", "rejected", "expired", "cancelled", "superseded"],
}

/** One entry per run, call or approval: the last that happened to it, an ending before all. */
function latest(events: readonly Event[], kind: Event["payload"]["case"]): Latest[] {
  const found = new Map<string, { order: string; entry: Latest }>()
  for (const { payload, runId, eventId, occurTime } of events) {
    if (payload.case !== kind || occurTime === undefined) continue
    const { value } = payload
    if (value === undefined || !("state" in value)) continue
    const step = "stepIndex" in value ? value.stepIndex : ""
    const key = "approvalId" in value ? value.approvalId : `${runId} ${step}`
    const isEnding = endings[kind ?? ""]?.includes(value.state) === true
    const atMs = timestampMs(occurTime)
    const order = `${isEnding ? 1 : 0} ${String(atMs).padStart(20, "0")} ${eventId}`
    const millis =
      "elapsedMillis" in value ? value.elapsedMillis : "waitMillis" in value ? value.waitMillis : 0n
    const reason = "reason" in value ? value.reason : ""
    const entry = { state: value.state, reason, millis: Number(millis), atMs }
    const before = found.get(key)
    if (before === undefined || before.order < order) found.set(key, { order, entry })
  }
  return [...found.values()].map(({ entry }) => entry)
}

export function recount(events: readonly Event[], startMs: number, endMs: number) {
  const inSpan = ({ atMs }: { atMs: number }) => atMs >= startMs && atMs < endMs
  const runs = latest(events, "runChanged").filter(inSpan)
  const calls = latest(events, "toolCallChanged").filter(inSpan)
  const approvals = latest(events, "approvalChanged").filter(inSpan)
  const verdicts = events.flatMap(({ payload, occurTime }) =>
    payload.case === "moderated" &&
    occurTime !== undefined &&
    inSpan({ atMs: timestampMs(occurTime) })
      ? [payload.value]
      : [],
  )
  const timely = events.filter(({ occurTime }) =>
    inSpan({ atMs: occurTime === undefined ? 0 : timestampMs(occurTime) }),
  )
  const used = timely.flatMap(({ payload }) =>
    payload.case === "toolCallChanged" ? [payload.value] : [],
  )
  const warned = timely.flatMap(({ payload }) =>
    payload.case === "budgetWarned" ? [payload.value] : [],
  )
  const ended = runs.filter((it) => ["succeeded", "failed", "expired"].includes(it.state))
  const failed = ended.filter((it) => it.state !== "succeeded")
  const faults = failed.filter(
    (it) => !["policy_denied", "approval_rejected", "approval_expired"].includes(it.reason),
  )
  const worked = runs.filter((it) => it.state === "succeeded" || it.state === "failed")
  const executed = calls.filter((it) => it.state === "succeeded" || it.state === "failed")
  const answered = approvals.filter((it) => ["approved", "rejected", "expired"].includes(it.state))
  const blocked = verdicts.filter((it) => it.verdict === "blocked")
  return {
    runsByState: tally(runs.map((it) => it.state)),
    failedRunsByReason: tally(failed.map((it) => it.reason)),
    waitingRunsByReason: tally(
      runs.filter((it) => it.state === "requires_action").map((it) => it.reason),
    ),
    runSuccessRate: part(ended.length - failed.length, ended.length),
    runFailureRate: part(faults.length, ended.length),
    runLatencyP50Millis: nearestRank(worked, 0.5),
    runLatencyP95Millis: nearestRank(worked, 0.95),
    toolCallsByState: tally(calls.map((it) => it.state)),
    toolFailureRate: part(executed.filter((it) => it.state === "failed").length, executed.length),
    moderationCount: verdicts.length,
    moderationBlockedCount: blocked.length,
    moderationFlaggedCount: verdicts.filter((it) => it.verdict === "flagged").length,
    moderationUnavailableCount: verdicts.filter((it) => it.unavailable).length,
    moderationBlockRate: part(blocked.length, verdicts.length) ?? 0,
    policyDenialCount: failed.filter((it) => it.reason === "policy_denied").length,
    approvalsByState: tally(approvals.map((it) => it.state)),
    approvalWaitP50Millis: nearestRank(answered, 0.5),
    approvalWaitP95Millis: nearestRank(answered, 0.95),
    inputTokens: used.reduce((total, it) => total + it.inputTokens, 0n),
    outputTokens: used.reduce((total, it) => total + it.outputTokens, 0n),
    costMicros: used.reduce((total, it) => total + it.costMicros, 0n),
    budgetWarningsByName: tally(warned.map((it) => it.budget)),
  }
}

/** Those of a window, with what is open now whenever it became so. */
export function recountNow(events: readonly Event[], startMs: number, endMs: number) {
  const calls = latest(events, "toolCallChanged")
  const outcomeUnknownOpen = calls.filter((it) => it.state === "outcome_unknown").length
  return { ...recount(events, startMs, endMs), outcomeUnknownOpen }
}

export function figures(metrics: Metrics | undefined) {
  if (metrics === undefined) throw new Error("no metrics in the answer")
  const { $typeName: _, startTime: __, endTime: ___, ...rest } = metrics
  return rest
}

function tally(keys: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const key of keys) counts[key] = (counts[key] ?? 0) + 1
  return counts
}

function part(some: number, all: number): number | undefined {
  return all === 0 ? undefined : some / all
}

function nearestRank(entries: readonly Latest[], p: number): number | undefined {
  const sorted = entries.map((it) => it.millis).sort((a, b) => a - b)
  return sorted[Math.ceil(p * sorted.length) - 1]
}
