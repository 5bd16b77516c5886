import type { Readings } from "./alert.ts"
import { type CountRow, sum, toMetrics, unknownOutcomes } from "./metrics.ts"

export interface Evidence {
  /** The counts of the alert window, as one step. */
  readonly rows: readonly CountRow[]
  /** Runs denied by policy per window of the same length, on average over the windows before. */
  readonly usualDenials: number
}

/** The figure of every alert: pure, from the counts of a window. */
export function readingsOf({ rows, usualDenials }: Evidence): Readings {
  const metrics = toMetrics(rows, { startMs: 0, endMs: 0 })
  const runs = metrics.runsByState ?? {}
  const calls = metrics.toolCallsByState ?? {}
  const approvals = metrics.approvalsByState ?? {}
  const judged = metrics.moderationCount ?? 0
  const unknown = unknownOutcomes(rows)
  const denials = metrics.policyDenialCount ?? 0
  return {
    run_failure_rate_high: {
      value: metrics.runFailureRate ?? 0,
      sample: sum(runs, ["succeeded", "failed", "expired"]),
    },
    outcome_unknown_open: { value: unknown, sample: unknown },
    moderation_unavailable: { value: metrics.moderationUnavailableCount ?? 0, sample: judged },
    tool_failure_rate_high: {
      value: metrics.toolFailureRate ?? 0,
      sample: sum(calls, ["succeeded", "failed"]),
    },
    run_latency_p95_high: {
      value: metrics.runLatencyP95Millis ?? 0,
      sample: sum(runs, ["succeeded", "failed"]),
    },
    moderation_block_rate_high: { value: metrics.moderationBlockRate ?? 0, sample: judged },
    approval_wait_p95_high: {
      value: metrics.approvalWaitP95Millis ?? 0,
      sample: sum(approvals, ["approved", "rejected", "expired"]),
    },
    // At least one is taken as usual: the first denial of a quiet workspace is no spike.
    policy_denial_spike: { value: denials / Math.max(1, usualDenials), sample: denials },
  }
}
