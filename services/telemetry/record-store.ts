import type { Database } from "../../mesh/database.ts"
import { createRecordWriter } from "./record-codec.ts"
import {
  type Entry,
  findingsOf,
  isEnding,
  type RunRecord,
  sumOf,
  writeTally,
} from "./run-record.ts"

/** A record as it is to be stored. */
export interface RecordDraft extends RunRecord {
  /** Place of its workspace among those of the call. */
  readonly place: number
  /** Those of its entries that are not stored yet. */
  readonly added: readonly Entry[]
  /** 1 for a record that is new; else one more than the one that this follows. */
  readonly revision: number
}

/** A record that was not stored, for another revision of it is there: that one, as far as it is seen. */
export interface HeldRecord {
  /** Place of the draft, from 1. */
  readonly n: number
  readonly revision: number | null
  readonly entries: Buffer | null
}

const usualRecordBytes = 512

/** Stores what can be stored, and returns the rest as it is held. */
export function storeRecords(
  database: Database,
  request: {
    readonly workspaceIds: readonly string[]
    readonly drafts: readonly RecordDraft[]
    /** Workspaces whose alerts are to be looked at, unless they are within this interval. */
    readonly watched: readonly string[]
    readonly intervalMs: number
  },
  signal: AbortSignal,
): Promise<readonly HeldRecord[]> {
  const { workspaceIds, drafts, watched, intervalMs } = request
  const values = [
    workspaceIds,
    ...recordColumns(drafts),
    ...approvalColumns(drafts),
    watched.toSorted(),
    intervalMs,
  ]
  return database.batch<HeldRecord>(workspaceIds, storeStatement, values, {
    signal,
    name: "record events",
  })
}

function recordColumns(drafts: readonly RecordDraft[]): readonly unknown[] {
  const write = createRecordWriter(drafts.length * usualRecordBytes)
  const rows = drafts.map(({ place, recordId, isRun, entries, revision }) => {
    const findings = findingsOf({ isRun, entries })
    const { run, calls } = findings
    let firstMicros = Number.POSITIVE_INFINITY
    let lastMicros = 0
    for (const { micros } of entries) {
      firstMicros = Math.min(firstMicros, micros)
      lastMicros = Math.max(lastMicros, micros)
    }
    const unknownCalls = calls.filter(({ state }) => state === "outcome_unknown").length
    const tally = writeTally(findings)
    const used = sumOf(findings.used)
    const usage = used === undefined ? null : JSON.stringify(used)
    const bytes = write(entries)
    const times = { firstMicros, lastMicros }
    return { place, recordId, revision, ...times, run, unknownCalls, tally, usage, bytes }
  })
  return [
    rows.map((row) => row.place + 1),
    rows.map((row) => row.recordId),
    rows.map((row) => row.revision),
    rows.map((row) => row.firstMicros),
    rows.map((row) => row.lastMicros),
    rows.map((row) => row.run?.micros ?? null),
    rows.map((row) => row.run?.millis ?? null),
    rows.map((row) => row.run?.state ?? null),
    rows.map((row) => row.run?.reason ?? null),
    rows.map((row) => row.unknownCalls),
    rows.map((row) => row.tally),
    rows.map((row) => row.bytes),
    rows.map((row) => row.usage),
  ]
}

function approvalColumns(drafts: readonly RecordDraft[]): readonly unknown[] {
  const rows = drafts.flatMap(({ place, added }) =>
    added.filter(({ kind }) => kind === "approval").map((entry) => ({ place, entry })),
  )
  return [
    rows.map((row) => row.place + 1),
    rows.map((row) => row.entry.about),
    rows.map((row) => row.entry.state),
    rows.map((row) => row.entry.millis),
    rows.map((row) => isEnding(row.entry)),
    rows.map((row) => row.entry.micros),
    rows.map((row) => row.entry.eventId),
  ]
}

/**
 * Rows are written in the order of their keys, so that calls which overlap wait for each other and do
 * not deadlock. A draft that follows a revision is written where that one is still there, by way of
 * the conflict, which finds its row by the primary key whatever the planner knows of the table; for
 * the same reason the last part looks records up one by one.
 */
const storeStatement = {
  name: "store_records",
  text: `
  with given as materialized (
    select n, ($1::uuid[])[place] as workspace_id, record_id, revision, first_micros, last_micros,
      state_micros, millis, unknown_calls, state, reason, tally, entries, usage
    from unnest($2::int[], $3::uuid[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[],
      $8::bigint[], $9::text[], $10::text[], $11::int[], $12::text[], $13::bytea[], $14::text[])
      with ordinality as draft (place, record_id, revision, first_micros, last_micros, state_micros,
        millis, state, reason, unknown_calls, tally, entries, usage, n)
  ), stored as (
    insert into run_records as held (workspace_id, record_id, revision, first_micros, last_micros,
      state_micros, millis, unknown_calls, state, reason, tally, entries, usage)
    select workspace_id, record_id, revision, first_micros, last_micros,
      state_micros, millis, unknown_calls, state, reason, tally, entries, usage
    from given order by workspace_id, record_id
    on conflict (workspace_id, record_id) do update
    set revision = excluded.revision, first_micros = excluded.first_micros,
      last_micros = excluded.last_micros, state_micros = excluded.state_micros,
      millis = excluded.millis, unknown_calls = excluded.unknown_calls, state = excluded.state,
      reason = excluded.reason, tally = excluded.tally, entries = excluded.entries, usage = excluded.usage
    where held.revision = excluded.revision - 1
    returning workspace_id, record_id
  ), approvals as (
    insert into approval_states as current (workspace_id, approval_id, state, millis, is_terminal,
      occur_time, event_id)
    select distinct on (workspace_id, approval_id) ($1::uuid[])[place] as workspace_id, approval_id,
      state, millis, is_terminal, timestamptz 'epoch' + micros * interval '1 microsecond', event_id
    from unnest($15::int[], $16::uuid[], $17::text[], $18::bigint[], $19::boolean[], $20::bigint[],
      $21::uuid[]) as entry (place, approval_id, state, millis, is_terminal, micros, event_id)
    order by workspace_id, approval_id, is_terminal desc, micros desc, event_id desc
    on conflict (workspace_id, approval_id) do update
    set state = excluded.state, millis = excluded.millis, is_terminal = excluded.is_terminal,
      occur_time = excluded.occur_time, event_id = excluded.event_id
    where (excluded.is_terminal, excluded.occur_time, excluded.event_id)
      > (current.is_terminal, current.occur_time, current.event_id)
  ), due as (
    insert into alert_evaluations_due as due (workspace_id, due_time)
    select workspace_id, now() from unnest($22::uuid[]) as watched (workspace_id)
    on conflict (workspace_id) do update set due_time = excluded.due_time
    where due.due_time > now() + $23::bigint * interval '1 millisecond'
  )
  select given.n::int as n, held.revision, held.entries
  from given left join lateral (
    select revision, entries from run_records
    where workspace_id = given.workspace_id and record_id = given.record_id
    limit 1
  ) as held on true
  where (given.workspace_id, given.record_id) not in (select workspace_id, record_id from stored)`,
}
