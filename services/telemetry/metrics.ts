/**
 * What the figures mean: pure, from counts to metrics. The counts come from metrics-store.ts.
 */
import type { MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromMs } from "@bufbuild/protobuf/wkt"
import type { MetricsSchema } from "../../gen/runwarden/telemetry/v1/metrics_pb.ts"

/** One count of one step: how many of a family carry this key. */
export interface CountRow {
  readonly step: number
  readonly family:
    | "run_state"
    | "run_reason"
    | "run_wait"
    | "run_latency"
    | "tool_call_state"
    | "verdict"
    | "approval_state"
    | "approval_wait"
    | "outcome_unknown"
    | "usage"
    | "budget_warning"
  readonly key: string
  readonly count: number
  readonly p50: number | null
  readonly p95: number | null
}

/** Tool calls whose outcome is unknown now, whenever it became so. */
export function unknownOutcomes(rows: readonly CountRow[]): number {
  return rows.find((row) => row.family === "outcome_unknown")?.count ?? 0
}

/** Reasons for which a run fails or expires by somebody's decision, not by a fault. */
export const decisions = ["policy_denied", "approval_rejected", "approval_expired"] as const

export interface Span {
  readonly startMs: number
  readonly endMs: number
}

export type MetricsInit = MessageInitShape<typeof MetricsSchema>

export function toMetrics(rows: readonly CountRow[], span: Span): MetricsInit {
  const runs = countsOf(rows, "run_state")
  const reasons = countsOf(rows, "run_reason")
  const calls = countsOf(rows, "tool_call_state")
  const verdicts = countsOf(rows, "verdict")
  const approvals = countsOf(rows, "approval_state")
  const latency = rows.find((row) => row.family === "run_latency")
  const used = countsOf(rows, "usage")
  const wait = rows.find((row) => row.family === "approval_wait")

  const ended = sum(runs, ["succeeded", "failed", "expired"])
  const faults = sum(runs, ["failed", "expired"]) - sum(reasons, decisions)
  const executed = sum(calls, ["succeeded", "failed"])
  const judged = sum(verdicts, Object.keys(verdicts))
  const blocked = sum(verdicts, ["blocked", "unavailable"])
  return {
    startTime: timestampFromMs(span.startMs),
    endTime: timestampFromMs(span.endMs),
    runsByState: runs,
    failedRunsByReason: reasons,
    waitingRunsByReason: countsOf(rows, "run_wait"),
    ...rate("runSuccessRate", sum(runs, ["succeeded"]), ended),
    ...rate("runFailureRate", faults, ended),
    ...percentiles("runLatencyP50Millis", "runLatencyP95Millis", latency),
    toolCallsByState: calls,
    ...rate("toolFailureRate", sum(calls, ["failed"]), executed),
    moderationCount: judged,
    moderationBlockedCount: blocked,
    moderationFlaggedCount: sum(verdicts, ["flagged"]),
    moderationUnavailableCount: sum(verdicts, ["unavailable"]),
    moderationBlockRate: judged === 0 ? 0 : blocked / judged,
    policyDenialCount: sum(reasons, ["policy_denied"]),
    approvalsByState: approvals,
    ...percentiles("approvalWaitP50Millis", "approvalWaitP95Millis", wait),
    inputTokens: BigInt(used.input ?? 0),
    outputTokens: BigInt(used.output ?? 0),
    costMicros: BigInt(used.cost ?? 0),
    budgetWarningsByName: countsOf(rows, "budget_warning"),
  }
}

/** The sum of some counts; those that are not there are 0. */
export function sum(counts: Readonly<Record<string, number>>, keys: readonly string[]): number {
  return keys.reduce(
    (total, key) => total + (Object.hasOwn(counts, key) ? (counts[key] ?? 0) : 0),
    0,
  )
}

function countsOf(rows: readonly CountRow[], family: CountRow["family"]): Record<string, number> {
  return Object.fromEntries(
    rows.filter((row) => row.family === family).map((row) => [row.key, row.count]),
  )
}

function rate<Name extends string>(
  name: Name,
  part: number,
  whole: number,
): { readonly [Key in Name]?: number } {
  return (whole === 0 ? {} : { [name]: part / whole }) as { readonly [Key in Name]?: number }
}

function percentiles<P50 extends string, P95 extends string>(
  p50: P50,
  p95: P95,
  row: CountRow | undefined,
): { readonly [Key in P50 | P95]?: number } {
  if (row === undefined || row.p50 === null || row.p95 === null) return {}
  return { [p50]: clamp(row.p50), [p95]: clamp(row.p95) } as {
    readonly [Key in P50 | P95]?: number
  }
}

/** Milliseconds as the contract carries them: 32 bits, 49 days. */
function clamp(millis: number): number {
  return Math.min(millis, 0xffff_ffff)
}
