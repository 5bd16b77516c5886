/**
 * Which workspaces telemetry must be told about, and how far it has been told.
 *
 * A workspace is due while its head is ahead of what was delivered. Who appends makes the due row
 * while it holds the head (journal-sql.ts); `settleDelivered` takes it away only while it holds the
 * head too and finds nothing appended since. Of the two, whichever comes second sees what the first
 * one did, so that no row is left behind without its workspace being due.
 */
import type { Database, Statement } from "../../../mesh/database.ts"
import type { DayUse } from "../budget/budget.ts"

/** A workspace that this replica delivers for, until its lease ends. */
export interface DeliveryClaim {
  readonly workspaceId: string
  /** Failures in a row. */
  readonly attempts: number
}

/** One row of the journal, with what its events need of the run. */
export interface DeliveredRow {
  readonly workspaceId: string
  readonly position: number
  readonly runId: string
  readonly entries: Uint8Array
  readonly createTime: Date
  readonly hash: Uint8Array
  readonly runTime: Date
  readonly traceId: string
  /** What telemetry does not know yet of the workspace's budget: the same with each of its rows. */
  readonly warning: DayWarning | null
}

/** A day on which four fifths of a budget of a workspace were used up. */
export interface DayWarning extends DayUse {
  readonly day: string
  readonly time: string
}

/** Takes workspaces that are due and that nobody delivers for, the longest due first. */
export function claimDueJournals(
  database: Database,
  options: { readonly owner: string; readonly leaseMs: number; readonly limit: number },
  signal: AbortSignal,
): Promise<readonly DeliveryClaim[]> {
  return database.control(
    [],
    (tx) =>
      tx.query<DeliveryClaim>(
        `update journal_due d set owner = $1::uuid,
           free_time = now() + $2::double precision * interval '1 millisecond'
         from (select workspace_id from journal_due where free_time <= now()
           order by free_time limit $3::integer for update skip locked) free
         where d.workspace_id = free.workspace_id
         returning d.workspace_id as "workspaceId", d.attempts`,
        [options.owner, options.leaseMs, options.limit],
      ),
    { name: "claimDueJournals", signal },
  )
}

/** What was not delivered yet of these workspaces, up to so many rows of each, in order. */
export function readUndelivered(
  database: Database,
  workspaceIds: readonly string[],
  rowsEach: number,
  signal: AbortSignal,
): Promise<readonly DeliveredRow[]> {
  const values = [workspaceIds, rowsEach]
  return database.batch<DeliveredRow>(workspaceIds, undelivered, values, { signal })
}

const undelivered: Statement = {
  name: "read-undelivered",
  text: `select h.workspace_id as "workspaceId", j.position, j.run_id as "runId", j.entries,
      j.create_time as "createTime", j.hash, r.create_time as "runTime", r.trace_id as "traceId",
      w.warning
    from unnest($1::uuid[]) as due (workspace_id)
    join journal_heads h on h.workspace_id = due.workspace_id
    left join lateral (
      select json_build_object('day', u.day, 'time', u.warn_time, 'calls', u.calls,
        'tokens', u.tokens, 'costMicros', u.cost_micros, 'maxCalls', b.max_calls,
        'maxTokens', b.max_tokens, 'maxCostMicros', b.max_cost_micros) as warning
      from workspace_usage u join workspace_budgets b on b.workspace_id = u.workspace_id
      where u.workspace_id = h.workspace_id and u.warn_time is not null and not u.is_told
      order by u.day limit 1) w on true
    cross join lateral (
      select * from journal j
      where j.workspace_id = h.workspace_id and j.position > h.delivered_position
      order by j.position limit $2::integer) j
    join runs r on r.workspace_id = j.workspace_id and r.run_id = j.run_id
    order by h.workspace_id, j.position`,
}

/** Notes of which days of workspaces telemetry has been warned. */
export async function settleWarnings(
  database: Database,
  warned: readonly { readonly workspaceId: string; readonly day: string }[],
): Promise<void> {
  const workspaceIds = warned.map(({ workspaceId }) => workspaceId)
  await database.batch(workspaceIds, warnedOf, [workspaceIds, warned.map(({ day }) => day)])
}

const warnedOf: Statement = {
  name: "settle-warnings",
  text: `update workspace_usage u set is_told = true
    from unnest($1::uuid[], $2::date[]) as w (workspace_id, day)
    where u.workspace_id = w.workspace_id and u.day = w.day`,
}

/** Notes how far each workspace was delivered; what was appended since is due at once. */
export async function settleDelivered(
  database: Database,
  owner: string,
  delivered: ReadonlyMap<string, number>,
): Promise<void> {
  const workspaceIds = [...delivered.keys()]
  await database.batch(workspaceIds, settled, [workspaceIds, [...delivered.values()], owner])
}

const settled: Statement = {
  name: "settle-delivered",
  text: `with told as (
      select * from unnest($1::uuid[], $2::bigint[]) as t (workspace_id, position)
    ), head as (
      select h.workspace_id, h.position, h.delivered_position from journal_heads h
      where h.workspace_id in (select workspace_id from told)
      order by h.workspace_id for update
    ), state as materialized (
      select h.workspace_id, greatest(t.position, h.delivered_position) as position,
        h.position > greatest(t.position, h.delivered_position) as is_ahead
      from head h join told t on t.workspace_id = h.workspace_id
    ), moved as (
      update journal_heads h set delivered_position = s.position
      from state s where h.workspace_id = s.workspace_id and h.delivered_position < s.position
    ), finished as (
      delete from journal_due d using state s
      where d.workspace_id = s.workspace_id and d.owner = $3::uuid and not s.is_ahead
    )
    update journal_due d set owner = null, attempts = 0, free_time = now()
    from state s where d.workspace_id = s.workspace_id and d.owner = $3::uuid and s.is_ahead`,
}

/** Gives workspaces back whose events could not be delivered, to be tried again after a while. */
export async function postponeDelivery(
  database: Database,
  owner: string,
  waits: ReadonlyMap<string, number>,
): Promise<void> {
  await database.control(
    [],
    (tx) =>
      tx.query(
        `update journal_due d set owner = null, attempts = d.attempts + 1,
           free_time = now() + w.wait_ms * interval '1 millisecond'
         from unnest($2::uuid[], $3::double precision[]) as w (workspace_id, wait_ms)
         where d.workspace_id = w.workspace_id and d.owner = $1::uuid`,
        [owner, [...waits.keys()], [...waits.values()]],
      ),
    { name: "postponeDelivery" },
  )
}
