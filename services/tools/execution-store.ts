import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../mesh/database.ts"
import {
  type Effect,
  type LedgerState,
  type Outcome,
  statesBefore,
  type ToolFailure,
} from "./ledger.ts"

/** A row of the ledger. */
export interface ExecutionRow {
  readonly tool: string
  readonly idempotency_key: string
  readonly request_digest: string
  readonly effect: Effect
  readonly state: LedgerState
  readonly result: JsonObject | null
  readonly error: ToolFailure | null
  readonly attempts: number
  readonly is_leased: boolean
  readonly create_time: Date
  readonly end_time: Date | null
}

export interface Intent {
  readonly workspaceId: string
  readonly tool: string
  readonly idempotencyKey: string
  readonly runId: string
  readonly stepIndex: number
  readonly requestDigest: string
  readonly definitionDigest: string
  readonly effect: Effect
  readonly leaseMs: number
}

/** Names a row within the workspace of the transaction. */
export type ExecutionKey = Pick<Intent, "workspaceId" | "tool" | "idempotencyKey">

// The lease is compared with the clock, not with the start of a transaction that may have waited.
const columns = `tool, idempotency_key, request_digest, effect, state, result, error, attempts,
  coalesce(lease_until > clock_timestamp(), false) as is_leased, create_time, end_time`

const ofKey = "workspace_id = $1::uuid and tool = $2::text and idempotency_key = $3::text"

const leaseEnd = (parameter: string) =>
  `clock_timestamp() + ${parameter}::double precision * interval '1 millisecond'`

/** Takes note of an epoch and gives the highest one seen of the run. */
export async function seeEpoch(
  tx: Tx,
  workspaceId: string,
  runId: string,
  epoch: bigint,
): Promise<bigint> {
  const row = await tx.one<{ epoch: bigint | string }>(
    `insert into run_epochs (workspace_id, run_id, epoch) values ($1::uuid, $2::uuid, $3::bigint)
     on conflict (workspace_id, run_id)
       do update set epoch = greatest(run_epochs.epoch, excluded.epoch)
     returning epoch`,
    [workspaceId, runId, epoch.toString()],
  )
  return BigInt(row.epoch)
}

/** Records that a call was never sent and never will be; undefined when its key is taken. */
export async function insertSeal(
  tx: Tx,
  intent: Omit<Intent, "leaseMs">,
  error: ToolFailure,
): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(
    `insert into executions (workspace_id, tool, idempotency_key, run_id, step_index,
       request_digest, definition_digest, effect, state, error, attempts, end_time)
     values ($1::uuid, $2::text, $3::text, $4::uuid, $5::integer, $6::text, $7::text, $8::text,
       'failed', $9::jsonb, 0, now())
     on conflict on constraint executions_pkey do nothing
     returning ${columns}`,
    [
      intent.workspaceId,
      intent.tool,
      intent.idempotencyKey,
      intent.runId,
      intent.stepIndex,
      intent.requestDigest,
      intent.definitionDigest,
      intent.effect,
      JSON.stringify(error),
    ],
  )
}

/** Records that a call is about to be sent; undefined when its key is taken. */
export async function insertIntent(tx: Tx, intent: Intent): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(
    `insert into executions (workspace_id, tool, idempotency_key, run_id, step_index,
       request_digest, definition_digest, effect, state, lease_until)
     values ($1::uuid, $2::text, $3::text, $4::uuid, $5::integer, $6::text, $7::text, $8::text,
       'in_flight', ${leaseEnd("$9")})
     on conflict on constraint executions_pkey do nothing
     returning ${columns}`,
    [
      intent.workspaceId,
      intent.tool,
      intent.idempotencyKey,
      intent.runId,
      intent.stepIndex,
      intent.requestDigest,
      intent.definitionDigest,
      intent.effect,
      intent.leaseMs,
    ],
  )
}

export async function lockExecution(tx: Tx, key: ExecutionKey): Promise<ExecutionRow> {
  return tx.one<ExecutionRow>(`select ${columns} from executions where ${ofKey} for update`, [
    ...keyValues(key),
  ])
}

export async function findExecution(tx: Tx, key: ExecutionKey): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(`select ${columns} from executions where ${ofKey}`, [
    ...keyValues(key),
  ])
}

/**
 * Counts another sending and takes the lease for it; undefined when somebody else sent since, or
 * the call has an outcome.
 */
export async function claimSending(
  tx: Tx,
  key: ExecutionKey,
  lastAttempt: number,
  leaseMs: number,
): Promise<ExecutionRow | undefined> {
  return tx.maybe<ExecutionRow>(
    `update executions set attempts = attempts + 1, lease_until = ${leaseEnd("$5")}
     where ${ofKey} and state = 'in_flight' and attempts = $4::integer
     returning ${columns}`,
    [...keyValues(key), lastAttempt, leaseMs],
  )
}

/** Lets the next request for the same key send again at once, if this sender still holds it. */
export async function releaseExecution(tx: Tx, key: ExecutionKey, attempt: number): Promise<void> {
  await tx.query(
    `update executions set lease_until = null
     where ${ofKey} and state = 'in_flight' and attempts = $4::integer`,
    [...keyValues(key), attempt],
  )
}

/**
 * Records an outcome and gives the row as it is then. What the tool itself answered is recorded
 * whoever holds the lease, since it is what happened; a judgement without an answer only by the
 * sender that holds the row (`attempt`). An outcome that stands is never overwritten.
 */
export async function recordOutcome(
  tx: Tx,
  key: ExecutionKey,
  outcome: Outcome,
  attempt: number | undefined,
): Promise<ExecutionRow> {
  const updated = await tx.maybe<ExecutionRow>(
    `update executions
     set state = $4::text, result = $5::jsonb, error = $6::jsonb, lease_until = null,
       end_time = now()
     where ${ofKey} and state = any ($7::text[])
       and ($8::integer is null or attempts = $8::integer)
     returning ${columns}`,
    [
      ...keyValues(key),
      outcome.kind,
      outcome.kind === "succeeded" ? JSON.stringify(outcome.result) : null,
      outcome.kind === "failed" ? JSON.stringify(outcome.error) : null,
      statesBefore(outcome.kind),
      attempt ?? null,
    ],
  )
  return updated ?? lockExecution(tx, key)
}

function keyValues(key: ExecutionKey): readonly [string, string, string] {
  return [key.workspaceId, key.tool, key.idempotencyKey]
}
