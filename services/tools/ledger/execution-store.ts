/**
 * The ledger's statements for one call, for everything that is rare: what a request finds instead of
 * a free key, sealing, cancelling, reading. Each of them locks the row that it decides on.
 * `execution-group-store.ts` has those that serve many calls at once.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../../mesh/database.ts"
import {
  type Effect,
  floorOf,
  type LedgerEntry,
  type LedgerState,
  type Outcome,
  type ToolFailure,
  type Usage,
} from "./ledger.ts"

/** A row of the ledger. */
export interface ExecutionRow {
  readonly state: LedgerState
  readonly result: JsonObject | null
  readonly error: ToolFailure | null
  /** Null where the provider said nothing. */
  readonly usage: Usage | null
  /** The number of the last sending. */
  readonly attempts: number
  readonly createdMs: number
  /** When the outcome was recorded; null while in flight. */
  readonly endedMs: number | null
}

/** A row with what decides who may do what with it. */
export interface DecidingRow extends ExecutionRow, LedgerEntry {
  /** The request that sent last. */
  readonly claimId: string | null
}

/** Names a row. */
export interface ExecutionKey {
  readonly workspaceId: string
  /** Full name of the tool. */
  readonly tool: string
  readonly idempotencyKey: string
}

/** Everything that a new row says of its call. */
export interface Intent extends ExecutionKey {
  readonly runId: string
  readonly stepIndex: number
  readonly requestDigest: string
  readonly definitionDigest: string
  readonly effect: Effect
  readonly epoch: bigint
}

const millis = (column: string) => `floor(extract(epoch from ${column}) * 1000)::bigint`

const columns = `state, result, error, usage, attempts,
  ${millis("create_time")} as "createdMs", ${millis("end_time")} as "endedMs"`

// The lease is compared with the clock, not with the start of a transaction that may have waited.
export const decidingColumns = `${columns}, request_digest as "requestDigest", effect,
  case when lease_until is null then 'open' when lease_until > clock_timestamp() then 'held'
    else 'expired' end as hold,
  maybe_applied as "maybeApplied", claim_id as "claimId"`

const ofKey = "workspace_id = $1::uuid and tool = $2::text and idempotency_key = $3::text"

/** Takes note of an epoch and gives the highest one seen of the run. */
export async function seeEpoch(
  tx: Tx,
  { workspaceId, runId, epoch }: Pick<Intent, "workspaceId" | "runId" | "epoch">,
): Promise<bigint> {
  const key = [workspaceId, runId]
  const seen = await tx.maybe<{ epoch: bigint | number }>(
    "select epoch from run_epochs where workspace_id = $1::uuid and run_id = $2::uuid",
    key,
  )
  const floor = floorOf(seen === undefined ? undefined : BigInt(seen.epoch))
  if (epoch <= floor) return floor
  const raised = await tx.one<{ epoch: bigint | number }>(
    `insert into run_epochs (workspace_id, run_id, epoch) values ($1::uuid, $2::uuid, $3::bigint)
     on conflict (workspace_id, run_id)
       do update set epoch = greatest(run_epochs.epoch, excluded.epoch)
     returning epoch`,
    [...key, epoch.toString()],
  )
  return BigInt(raised.epoch)
}

/** The row of a key, locked; undefined where there is none. */
export async function lockExecution(tx: Tx, key: ExecutionKey): Promise<DecidingRow | undefined> {
  return tx.maybe<DecidingRow>(
    `select ${decidingColumns} from executions where ${ofKey} for update`,
    keyValues(key),
  )
}

export async function findExecution(tx: Tx, key: ExecutionKey): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(`select ${columns} from executions where ${ofKey}`, keyValues(key))
}

/**
 * Takes the lease of a locked row in flight: for another sending, which is counted, or for the one
 * that this very request claimed before.
 */
export async function takeExecution(
  tx: Tx,
  key: ExecutionKey,
  taken: {
    readonly claimId: string
    readonly isAnother: boolean
    readonly maybeApplied: boolean
    readonly leaseMs: number
  },
): Promise<ExecutionRow> {
  return tx.one<ExecutionRow>(
    `update executions
     set attempts = attempts + $4::integer, claim_id = $5::uuid, maybe_applied = $6::boolean,
       lease_until = clock_timestamp() + $7::double precision * interval '1 millisecond',
       cancel_time = null
     where ${ofKey} and state = 'in_flight'
     returning ${columns}`,
    [...keyValues(key), taken.isAnother ? 1 : 0, taken.claimId, taken.maybeApplied, taken.leaseMs],
  )
}

/** Records an outcome on a locked row in flight. */
export async function endExecution(
  tx: Tx,
  key: ExecutionKey,
  outcome: Outcome,
): Promise<ExecutionRow> {
  return tx.one<ExecutionRow>(
    `update executions
     set state = $4::text, result = $5::jsonb, error = $6::jsonb, usage = $7::jsonb,
       lease_until = null, end_time = now()
     where ${ofKey} and state = 'in_flight'
     returning ${columns}`,
    [...keyValues(key), ...outcomeValues(outcome)],
  )
}

/** Records a call that was never sent and never will be; undefined when its key is taken. */
export async function insertSealed(
  tx: Tx,
  intent: Intent,
  outcome: Outcome,
): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(
    `insert into executions (workspace_id, tool, idempotency_key, state, result, error, usage,
       run_id, step_index, request_digest, definition_digest, effect, attempts, end_time)
     values ($1::uuid, $2::text, $3::text, $4::text, $5::jsonb, $6::jsonb, $7::jsonb, $8::uuid,
       $9::integer, $10::text, $11::text, $12::text, 0, now())
     on conflict on constraint executions_pkey do nothing
     returning ${columns}`,
    [
      ...keyValues(intent),
      ...outcomeValues(outcome),
      intent.runId,
      intent.stepIndex,
      intent.requestDigest,
      intent.definitionDigest,
      intent.effect,
    ],
  )
}

/** Asks whoever sends a call to stop; false where nobody does. */
export async function requestCancel(tx: Tx, key: ExecutionKey): Promise<boolean> {
  const asked = await tx.query(
    `update executions set cancel_time = coalesce(cancel_time, now())
     where ${ofKey} and state = 'in_flight' and lease_until > clock_timestamp()
     returning 1 as one`,
    keyValues(key),
  )
  return asked.length > 0
}

type OutcomeValues = readonly [string, string | null, string | null, string | null]

/** State, result, error and usage as they are stored. */
export function outcomeValues(outcome: Outcome): OutcomeValues {
  return [
    outcome.kind,
    outcome.kind === "succeeded" ? outcome.text : null,
    outcome.kind === "failed" ? JSON.stringify(outcome.error) : null,
    outcome.usage === undefined ? null : JSON.stringify(outcome.usage),
  ]
}

function keyValues(key: ExecutionKey): readonly [string, string, string] {
  return [key.workspaceId, key.tool, key.idempotencyKey]
}
