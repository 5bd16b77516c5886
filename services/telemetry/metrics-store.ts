import type { Tx } from "../../mesh/database.ts"
import type { CountRow } from "./metrics.ts"

export interface CountQuery {
  readonly startMs: number
  /** Exclusive; infinity takes in all that has arrived. */
  readonly endMs: number
  /** Length of the steps that the span is cut into; infinity for one. */
  readonly stepMs: number
}

/** Every count of a span by steps from its start, in one statement and so in one snapshot. */
export function countByStep(tx: Tx, query: CountQuery): Promise<readonly CountRow[]> {
  const end = Number.isFinite(query.endMs) ? new Date(query.endMs).toISOString() : "infinity"
  const step = Number.isFinite(query.stepMs) ? query.stepMs : null
  return tx.query<CountRow>(countSql, [new Date(query.startMs).toISOString(), end, step])
}

/** Tool calls whose outcome is unknown now. */
export async function countUnknownOutcomes(tx: Tx): Promise<number> {
  const { count } = await tx.one<{ readonly count: number }>(
    `select count(*)::int as count from tool_call_states
     where workspace_id = runwarden.current_workspace() and state = 'outcome_unknown'`,
  )
  return count
}

/** Runs that a policy denied in a span. */
export async function countDenials(
  tx: Tx,
  span: { readonly startMs: number; readonly endMs: number },
): Promise<number> {
  const { count } = await tx.one<{ readonly count: number }>(
    `select count(*)::int as count from run_states
     where workspace_id = runwarden.current_workspace()
       and occur_time >= $1::timestamptz and occur_time < $2::timestamptz
       and state = 'failed' and reason = 'policy_denied'`,
    [new Date(span.startMs).toISOString(), new Date(span.endMs).toISOString()],
  )
  return count
}

const inSpan = `workspace_id = runwarden.current_workspace()
      and occur_time >= $1::timestamptz and occur_time < $2::timestamptz`
const stepOf = `case when $3::bigint is null then 0 else
      floor(extract(epoch from occur_time - $1::timestamptz) * 1000 / $3::bigint)::int end as step`

const countSql = `
  with runs as (
    select ${stepOf}, state, reason, millis from run_states where ${inSpan}
  ), calls as (
    select ${stepOf}, state from tool_call_states where ${inSpan}
  ), verdicts as (
    select ${stepOf}, case when is_unavailable then 'unavailable' else state end as verdict
    from events where ${inSpan} and kind = 'moderation'
  ), approvals as (
    select ${stepOf}, state, millis from approval_states where ${inSpan}
  )
  select step, 'run_state' as family, state as key, count(*)::int as count,
    null::bigint as p50, null::bigint as p95
  from runs group by step, state
  union all
  select step, 'run_reason', reason, count(*)::int, null, null
  from runs where state in ('failed', 'expired') group by step, reason
  union all
  select step, 'run_latency', '', count(*)::int,
    percentile_disc(0.5) within group (order by millis),
    percentile_disc(0.95) within group (order by millis)
  from runs where state in ('succeeded', 'failed') group by step
  union all
  select step, 'tool_call_state', state, count(*)::int, null, null
  from calls group by step, state
  union all
  select step, 'verdict', verdict, count(*)::int, null, null
  from verdicts group by step, verdict
  union all
  select step, 'approval_state', state, count(*)::int, null, null
  from approvals group by step, state
  union all
  select step, 'approval_wait', '', count(*)::int,
    percentile_disc(0.5) within group (order by millis),
    percentile_disc(0.95) within group (order by millis)
  from approvals where state in ('approved', 'rejected', 'expired') group by step`
