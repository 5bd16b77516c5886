/**
 * The ledger's statements for many calls of many workspaces, as the worker's role, each one round
 * trip and one transaction.
 *
 * The fence. A claim is refused when a higher epoch of its run was committed before the claim's
 * statement began. That is all a fence can promise, and all that is needed: a claim that overlaps
 * with the first one of a later owner may come before it in any order, since both insert the row of
 * their key, which only one of them can; and an owner may be stopped between its claim and its
 * sending in any case, which the lease of the row looks after. So the epoch is read without a lock,
 * and written only where it rises above the first owner's.
 */
import type { Database, Statement } from "../../../mesh/database.ts"
import {
  type DecidingRow,
  decidingColumns,
  type ExecutionKey,
  type Intent,
} from "./execution-store.ts"

/** A call that wants to be sent. `claimId` is its own, and the same when it asks again. */
export interface ClaimItem extends Intent {
  readonly claimId: string
}

/** What a claim found. */
export type Claim =
  | {
      readonly kind: "claimed"
      readonly createdMs: number
      /** When the lease was asked for, by the monotonic clock: it began no earlier. */
      readonly leasedAt: number
    }
  /** The key has a row. */
  | { readonly kind: "taken" }
  | { readonly kind: "lease_lost" }

/** What became of a sending: an outcome, or the row given back (`in_flight`). */
export interface SettleItem extends ClaimItem {
  readonly state: string
  readonly result: string | null
  readonly error: string | null
  readonly usage: string | null
  /** Only this sending may settle it so; null for what the tool itself said, which is so whoever asks. */
  readonly attempt: number | null
  /** Of a row that is given back: whether a sending may have taken effect. */
  readonly maybeApplied: boolean
}

/** When the outcome was recorded; undefined where the row did not allow it. */
export type Settled = { readonly endedMs: number } | undefined

/** A sending that goes on. */
export interface RunningItem extends ExecutionKey {
  readonly attempt: number
}

/** What is known of a sending that goes on: `lost` where another request has its row. */
export type Watched = "mine" | "cancelled" | "lost"

const claimStatement: Statement = {
  name: "claim_executions",
  text: `
    with item as (
      select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::integer[],
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::uuid[])
        as t (workspace_id, tool, idempotency_key, run_id, step_index,
          request_digest, definition_digest, effect, epoch, claim_id)
    ), live as (
      select i.* from item i
      where not exists (
        select from run_epochs e
        where e.workspace_id = i.workspace_id and e.run_id = i.run_id and e.epoch > i.epoch)
    ), raised as (
      insert into run_epochs (workspace_id, run_id, epoch)
      select workspace_id, run_id, max(epoch) from live i
      where epoch > 1 and not exists (
        select from run_epochs e
        where e.workspace_id = i.workspace_id and e.run_id = i.run_id and e.epoch = i.epoch)
      group by workspace_id, run_id order by workspace_id, run_id
      on conflict (workspace_id, run_id)
        do update set epoch = excluded.epoch where run_epochs.epoch < excluded.epoch
      returning run_id
    ), claimed as (
      insert into executions (workspace_id, tool, idempotency_key, run_id, step_index,
        request_digest, definition_digest, effect, claim_id, state, lease_until)
      select workspace_id, tool, idempotency_key, run_id, step_index,
        request_digest, definition_digest, effect, claim_id, 'in_flight',
        clock_timestamp() + $11::double precision * interval '1 millisecond'
      from live
      -- Rows are locked in one order: epochs of runs before calls, and each by their keys.
      where (select count(*) from raised) >= 0
      order by workspace_id, tool, idempotency_key
      on conflict on constraint executions_pkey do nothing
      returning claim_id
    )
    select floor(extract(epoch from now()) * 1000)::bigint as now, count(*)::integer as count,
      case when count(*) < cardinality($1) then array_agg(claim_id) end as claimed,
      case when count(*) < cardinality($1) then array(select claim_id from live) end as live
    from claimed`,
}

// Written as an insert that always finds its row: an update joined with many keys may be planned, while
// the table is young, to read all rows of the workspaces, and then stays so as the table grows.
const settleStatement: Statement = {
  name: "settle_executions",
  text: `
    with settled as (
      insert into executions (workspace_id, tool, idempotency_key, run_id, step_index,
        request_digest, definition_digest, effect, claim_id, state, result, error, usage, attempts,
        maybe_applied, end_time)
      select workspace_id, tool, idempotency_key, run_id, step_index,
        request_digest, definition_digest, effect, claim_id, state, result::jsonb, error::jsonb,
        usage::jsonb, coalesce(attempt, 0), maybe_applied, case when state <> 'in_flight' then now() end
      from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::integer[],
        $6::text[], $7::text[], $8::text[], $9::uuid[], $10::text[], $11::text[], $12::text[],
        $13::text[], $14::integer[], $15::boolean[])
        as t (workspace_id, tool, idempotency_key, run_id, step_index, request_digest,
          definition_digest, effect, claim_id, state, result, error, usage, attempt, maybe_applied)
      order by workspace_id, tool, idempotency_key
      on conflict on constraint executions_pkey do update
        set state = excluded.state, result = excluded.result, error = excluded.error,
          usage = excluded.usage,
          lease_until = null, end_time = excluded.end_time,
          maybe_applied = executions.maybe_applied or excluded.maybe_applied
        where (executions.state = 'in_flight'
            or executions.state = 'outcome_unknown' and excluded.state in ('succeeded', 'failed'))
          and (excluded.attempts = 0 or executions.attempts = excluded.attempts)
      returning workspace_id, tool, idempotency_key
    )
    select floor(extract(epoch from now()) * 1000)::bigint as now, count(*)::integer as count,
      case when count(*) < cardinality($1) then
        array_agg(concat_ws(' ', workspace_id, tool, idempotency_key))
      end as settled
    from settled`,
}

const lookStatement: Statement = {
  name: "look_at_executions",
  text: `
    select i.n, e.* from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality
      as i (workspace_id, tool, idempotency_key, n)
    cross join lateral (
      select ${decidingColumns} from executions
      where workspace_id = i.workspace_id and tool = i.tool
        and idempotency_key = i.idempotency_key
      limit 1
    ) e`,
}

// The arrays are conditions of the table itself, so that its key is what finds the rows.
const ofRunning = `e.workspace_id = any ($1::uuid[]) and e.tool = any ($2::text[])
    and e.idempotency_key = any ($3::text[]) and e.state = 'in_flight' and e.lease_until is not null`
const running = `e.workspace_id as "workspaceId", e.tool, e.idempotency_key as "idempotencyKey",
    e.attempts as attempt, e.cancel_time is not null as cancelled`

const renewText = `
  update executions e
  set lease_until = clock_timestamp() + $5::double precision * interval '1 millisecond'
  where ${ofRunning} and exists (
    select from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[])
      as i (workspace_id, tool, idempotency_key, attempt)
    where i.workspace_id = e.workspace_id and i.tool = e.tool
      and i.idempotency_key = e.idempotency_key and i.attempt = e.attempts)
  returning ${running}`

const watchText = `select ${running} from executions e where ${ofRunning}`

/** Records that calls are about to be sent: one row each, or none. */
export async function claimExecutions(
  database: Database,
  items: readonly ClaimItem[],
  leaseMs: number,
): Promise<readonly Claim[]> {
  const leasedAt = performance.now()
  const [row] = await database.batch<{
    readonly now: number
    readonly count: number
    readonly claimed: readonly string[] | null
    readonly live: readonly string[] | null
  }>(workspacesOf(items), claimStatement, [
    ...intentColumns(items),
    items.map((item) => item.epoch),
    items.map((item) => item.claimId),
    leaseMs,
  ])
  if (row === undefined) throw new Error("a claim of executions answered nothing")
  const claimed: Claim = { kind: "claimed", createdMs: row.now, leasedAt }
  if (row.count === items.length) return items.map(() => claimed)
  const mine = new Set(row.claimed)
  const live = new Set(row.live)
  return items.map(({ claimId }) => {
    if (mine.has(claimId)) return claimed
    return { kind: live.has(claimId) ? "taken" : "lease_lost" }
  })
}

/** The rows of keys that are taken, as they are now; whoever decides to write locks its row first. */
export async function lookAtExecutions(
  database: Database,
  items: readonly ExecutionKey[],
): Promise<readonly (DecidingRow | undefined)[]> {
  const rows = await database.batch<DecidingRow & { readonly n: number }>(
    workspacesOf(items),
    lookStatement,
    keyColumns(items),
  )
  const found = new Map(rows.map((row) => [row.n, row]))
  return items.map((_, index) => found.get(index + 1))
}

/** Records what became of sendings. What stands is never overwritten. */
export async function settleExecutions(
  database: Database,
  items: readonly SettleItem[],
): Promise<readonly Settled[]> {
  const [row] = await database.batch<{
    readonly now: number
    readonly count: number
    readonly settled: readonly string[] | null
  }>(workspacesOf(items), settleStatement, [
    ...intentColumns(items),
    items.map((item) => item.claimId),
    items.map((item) => item.state),
    items.map((item) => item.result),
    items.map((item) => item.error),
    items.map((item) => item.usage),
    items.map((item) => item.attempt),
    items.map((item) => item.maybeApplied),
  ])
  if (row === undefined) throw new Error("settling executions answered nothing")
  const settled = { endedMs: row.now }
  if (row.count === items.length) return items.map(() => settled)
  const done = new Set(row.settled)
  return items.map(({ workspaceId, tool, idempotencyKey }) =>
    done.has(`${workspaceId} ${tool} ${idempotencyKey}`) ? settled : undefined,
  )
}

/** Renews the leases of sendings that go on, and tells which are not theirs, or must stop. */
export async function renewExecutions(
  database: Database,
  items: readonly RunningItem[],
  leaseMs: number,
): Promise<readonly Watched[]> {
  const attempts = items.map(({ attempt }) => attempt)
  return watched(database, items, renewText, [attempts, leaseMs])
}

/** Tells which sendings are not theirs any more, or must stop. */
export async function watchExecutions(
  database: Database,
  items: readonly RunningItem[],
): Promise<readonly Watched[]> {
  return watched(database, items, watchText, [])
}

interface RunningRow extends RunningItem {
  readonly cancelled: boolean
}

async function watched(
  database: Database,
  items: readonly RunningItem[],
  text: string,
  more: readonly unknown[],
): Promise<readonly Watched[]> {
  const rows = await database.control(
    workspacesOf(items),
    (tx) => tx.query<RunningRow>(text, [...keyColumns(items), ...more]),
    { name: "watch executions" },
  )
  const found = new Map(rows.map((row) => [sendingKey(row), row]))
  return items.map((item) => {
    const row = found.get(sendingKey(item))
    if (row === undefined) return "lost"
    return row.cancelled ? "cancelled" : "mine"
  })
}

function sendingKey({ workspaceId, tool, idempotencyKey, attempt }: RunningItem): string {
  return `${workspaceId} ${tool} ${idempotencyKey} ${attempt}`
}

function workspacesOf(items: readonly ExecutionKey[]): readonly string[] {
  return [...new Set(items.map(({ workspaceId }) => workspaceId))]
}

function intentColumns(items: readonly Intent[]) {
  return [
    ...keyColumns(items),
    items.map((item) => item.runId),
    items.map((item) => item.stepIndex),
    items.map((item) => item.requestDigest),
    items.map((item) => item.definitionDigest),
    items.map((item) => item.effect),
  ]
}

function keyColumns(items: readonly ExecutionKey[]) {
  return [
    items.map(({ workspaceId }) => workspaceId),
    items.map(({ tool }) => tool),
    items.map(({ idempotencyKey }) => idempotencyKey),
  ]
}
