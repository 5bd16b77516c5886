import type { Tx } from "../../mesh/database.ts"
import type { EventRow } from "./event-row.ts"

/**
 * Stores the events that are new and moves the latest states on, in one statement. Says how many
 * were new. Rows are written in the order of their keys, so that batches which overlap wait for each
 * other and do not deadlock.
 */
export async function recordEvents(tx: Tx, rows: readonly EventRow[]): Promise<number> {
  const { count } = await tx.one<{ readonly count: number }>(recordSql, [
    rows.map((row) => row.eventId),
    rows.map((row) => row.occurTime),
    rows.map((row) => row.kind),
    rows.map((row) => row.runId),
    rows.map((row) => row.traceId),
    rows.map((row) => row.stepIndex),
    rows.map((row) => row.approvalId),
    rows.map((row) => row.name),
    rows.map((row) => row.state),
    rows.map((row) => row.reason),
    rows.map((row) => row.millis),
    rows.map((row) => row.isUnavailable),
    rows.map((row) => row.isTerminal),
  ])
  return count
}

const recordSql = `
  with given as (
    select runwarden.current_workspace() as workspace_id, *
    from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[], $6::bigint[],
      $7::uuid[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::boolean[], $13::boolean[])
      as event (event_id, occur_time, kind, run_id, trace_id, step_index, approval_id, name, state,
        reason, millis, is_unavailable, is_terminal)
  ), stored as (
    insert into events (workspace_id, event_id, occur_time, kind, run_id, trace_id, step_index,
      approval_id, name, state, reason, millis, is_unavailable)
    select workspace_id, event_id, occur_time, kind, run_id, trace_id, step_index,
      approval_id, name, state, reason, millis, is_unavailable
    from given order by event_id
    on conflict do nothing
    returning event_id
  ), fresh as (
    select distinct on (event_id) given.* from given join stored using (event_id)
  ), runs as (
    insert into run_states as current (workspace_id, run_id, state, reason, millis, is_terminal,
      occur_time, event_id)
    select distinct on (run_id) workspace_id, run_id, state, reason, millis, is_terminal,
      occur_time, event_id
    from fresh where kind = 'run' and run_id is not null
    order by run_id, is_terminal desc, occur_time desc, event_id desc
    on conflict (workspace_id, run_id) do update
    set state = excluded.state, reason = excluded.reason, millis = excluded.millis,
      is_terminal = excluded.is_terminal, occur_time = excluded.occur_time,
      event_id = excluded.event_id
    where (excluded.is_terminal, excluded.occur_time, excluded.event_id)
      > (current.is_terminal, current.occur_time, current.event_id)
  ), calls as (
    insert into tool_call_states as current (workspace_id, run_id, step_index, tool, state, reason,
      millis, is_terminal, occur_time, event_id)
    select distinct on (run_id, step_index) workspace_id, run_id, step_index, name, state, reason,
      millis, is_terminal, occur_time, event_id
    from fresh where kind = 'tool_call' and run_id is not null
    order by run_id, step_index, is_terminal desc, occur_time desc, event_id desc
    on conflict (workspace_id, run_id, step_index) do update
    set tool = excluded.tool, state = excluded.state, reason = excluded.reason,
      millis = excluded.millis, is_terminal = excluded.is_terminal,
      occur_time = excluded.occur_time, event_id = excluded.event_id
    where (excluded.is_terminal, excluded.occur_time, excluded.event_id)
      > (current.is_terminal, current.occur_time, current.event_id)
  ), approvals as (
    insert into approval_states as current (workspace_id, approval_id, state, millis, is_terminal,
      occur_time, event_id)
    select distinct on (approval_id) workspace_id, approval_id, state, millis, is_terminal,
      occur_time, event_id
    from fresh where kind = 'approval'
    order by approval_id, is_terminal desc, occur_time desc, event_id desc
    on conflict (workspace_id, approval_id) do update
    set state = excluded.state, millis = excluded.millis, is_terminal = excluded.is_terminal,
      occur_time = excluded.occur_time, event_id = excluded.event_id
    where (excluded.is_terminal, excluded.occur_time, excluded.event_id)
      > (current.is_terminal, current.occur_time, current.event_id)
  ), due as (
    insert into alert_evaluations_due (workspace_id, due_time)
    select workspace_id, now() from stored, runwarden.current_workspace() as own (workspace_id)
    limit 1
    on conflict do nothing
  )
  select count(*)::int as count from stored`
