import type { Tx } from "../../mesh/database.ts"
import type { CountRow } from "./metrics.ts"
import { readEntries } from "./record-codec.ts"
import { findingsOf, readTally, verdictOf } from "./run-record.ts"

export interface CountQuery {
  readonly startMs: number
  /** Exclusive; infinity takes in all that has arrived. */
  readonly endMs: number
  /** Length of the steps that the span is cut into; infinity for one. */
  readonly stepMs: number
}

/** What the statement gives beside counts: tallies of many records, and records to be looked into. */
type FoundRow =
  | CountRow
  | {
      readonly family: "tally"
      readonly step: number
      readonly key: string
      readonly count: number
    }
  | { readonly family: "record"; readonly entries: Buffer }

/**
 * Every count of a span by steps from its start, in one statement and so in one snapshot. Records
 * whose events are all in one step count by their columns; those that lie across a border of the span
 * or of a step are few, and are looked into.
 */
export async function countByStep(tx: Tx, query: CountQuery): Promise<readonly CountRow[]> {
  const span = {
    start: query.startMs * 1_000,
    end: query.endMs * 1_000,
    step: query.stepMs * 1_000,
  }
  const found = await tx.query<FoundRow>(countSql, [
    span.start,
    Number.isFinite(span.end) ? span.end : lastMicros,
    Number.isFinite(span.step) ? span.step : null,
  ])
  const counts = createCounts()
  const rows: CountRow[] = []
  for (const row of found) {
    if (row.family === "record") countRecord(counts, row.entries, span)
    else if (row.family === "tally") {
      const [calls, verdicts, warnings = {}] = readTally(row.key)
      for (const [state, count] of Object.entries(calls)) {
        counts.add(row.step, "tool_call_state", state, count * row.count)
      }
      for (const [verdict, count] of Object.entries(verdicts)) {
        counts.add(row.step, "verdict", verdict, count * row.count)
      }
      for (const [budget, count] of Object.entries(warnings)) {
        counts.add(row.step, "budget_warning", budget, count * row.count)
      }
    } else if (row.family === "usage") counts.add(row.step, "usage", row.key, row.count)
    else rows.push(row)
  }
  return [...rows, ...counts.rows()]
}

/** Runs that a policy denied in a span. */
export async function countDenials(
  tx: Tx,
  span: { readonly startMs: number; readonly endMs: number },
): Promise<number> {
  const { count } = await tx.one<{ readonly count: number }>(
    `select count(*)::int as count from run_records
     where workspace_id = runwarden.current_workspace()
       and state_micros >= $1::bigint and state_micros < $2::bigint
       and state = 'failed' and reason = 'policy_denied'`,
    [span.startMs * 1_000, span.endMs * 1_000],
  )
  return count
}

function countRecord(
  counts: ReturnType<typeof createCounts>,
  bytes: Buffer,
  span: { readonly start: number; readonly end: number; readonly step: number },
): void {
  // Only a run has more than one event, and so events on both sides of a border.
  const entries = readEntries(bytes)
  const { calls, verdicts, used, warnings } = findingsOf({ isRun: true, entries })
  const add = (family: Tallied, key: string, micros: number, count = 1) => {
    if (micros < span.start || micros >= span.end) return
    const step = Number.isFinite(span.step) ? Math.floor((micros - span.start) / span.step) : 0
    counts.add(step, family, key, count)
  }
  for (const call of calls) add("tool_call_state", call.state, call.micros)
  for (const verdict of verdicts) add("verdict", verdictOf(verdict), verdict.micros)
  for (const warning of warnings) add("budget_warning", warning.name, warning.micros)
  for (const { amounts, micros } of used) {
    amounts?.forEach((amount, place) => {
      add("usage", amountNames[place] ?? "", micros, amount)
    })
  }
}

type Tallied = "tool_call_state" | "verdict" | "usage" | "budget_warning"

const amountNames = ["input", "output", "cost"]

function createCounts() {
  const counts = new Map<string, CountRow>()
  return {
    add(step: number, family: Tallied, key: string, count: number): void {
      const name = `${step} ${family} ${key}`
      const before = counts.get(name)?.count ?? 0
      counts.set(name, { step, family, key, count: before + count, p50: null, p95: null })
    },
    rows: () => counts.values(),
  }
}

/** Later than any event can be. */
const lastMicros = Number.MAX_SAFE_INTEGER

const stepOf = (micros: string) =>
  `case when $3::bigint is null then 0 else (${micros} - $1::bigint) / $3::bigint end`

const countSql = `
  with found as materialized (
    select record_id, first_micros, last_micros, state_micros, state, reason, millis, tally, usage,
      first_micros >= $1::bigint and last_micros < $2::bigint
        and ${stepOf("first_micros")} = ${stepOf("last_micros")} as is_whole
    from run_records
    where workspace_id = runwarden.current_workspace()
      and last_micros >= 0 and last_micros >= $1::bigint and first_micros < $2::bigint
  ), runs as (
    select ${stepOf("state_micros")} as step, state, reason, millis
    from found where state_micros >= $1::bigint and state_micros < $2::bigint
  ), approvals as (
    select ${stepOf("micros")} as step, state, millis
    from approval_states, lateral (select (extract(epoch from occur_time) * 1000000)::bigint) as at (micros)
    where workspace_id = runwarden.current_workspace()
      and occur_time >= timestamptz 'epoch' + $1::bigint * interval '1 microsecond' and micros < $2::bigint
  )
  select step, 'run_state' as family, state as key, count(*)::bigint as count,
    null::bigint as p50, null::bigint as p95, null::bytea as entries
  from runs group by step, state
  union all
  select step, 'run_reason', reason, count(*)::int, null, null, null
  from runs where state in ('failed', 'expired') group by step, reason
  union all
  select step, 'run_wait', reason, count(*)::int, null, null, null
  from runs where state = 'requires_action' group by step, reason
  union all
  select step, 'run_latency', '', count(*)::int,
    percentile_disc(0.5) within group (order by millis),
    percentile_disc(0.95) within group (order by millis), null
  from runs where state in ('succeeded', 'failed') group by step
  union all
  select ${stepOf("first_micros")}, 'tally', tally, count(*)::int, null, null, null
  from found where is_whole and tally <> '' group by 1, tally
  union all
  select ${stepOf("first_micros")}, 'usage', amount.name, sum(amount.value)::bigint, null, null, null
  from found cross join lateral (values ('input', (usage::json ->> 0)::bigint),
    ('output', (usage::json ->> 1)::bigint), ('cost', (usage::json ->> 2)::bigint)
  ) as amount (name, value)
  where is_whole and usage is not null group by 1, amount.name
  union all
  select 0, 'record', '', 1, null, null, record.entries
  from found cross join lateral (
    select entries from run_records
    where workspace_id = runwarden.current_workspace() and record_id = found.record_id
    limit 1
  ) as record
  where not is_whole and tally <> ''
  union all
  select step, 'approval_state', state, count(*)::int, null, null, null
  from approvals group by step, state
  union all
  select step, 'approval_wait', '', count(*)::int,
    percentile_disc(0.5) within group (order by millis),
    percentile_disc(0.95) within group (order by millis), null
  from approvals where state in ('approved', 'rejected', 'expired') group by step
  union all
  select 0, 'outcome_unknown', '', coalesce(sum(unknown_calls), 0)::int, null, null, null
  from run_records
  where workspace_id = runwarden.current_workspace() and unknown_calls > 0`
