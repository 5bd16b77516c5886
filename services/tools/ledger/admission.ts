/** What a request finds where its key is taken: decided under the lock of the row, and recorded. */
import type { Tx } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import type { ClaimItem } from "./execution-group-store.ts"
import {
  type DecidingRow,
  type ExecutionKey,
  type ExecutionRow,
  endExecution,
  type Intent,
  insertSealed,
  lockExecution,
  seeEpoch,
  takeExecution,
} from "./execution-store.ts"
import { admit, type Outcome, seal } from "./ledger.ts"

/** A row that a request may send. */
export interface Held {
  /** The number of the sending. */
  readonly attempt: number
  readonly createdMs: number
  /** When the lease was asked for, by the monotonic clock. */
  readonly leasedAt: number
  /** Whether an earlier sending may have taken effect. */
  readonly maybeApplied: boolean
}

export type Admitted =
  | { readonly next: "send"; readonly held: Held }
  | { readonly next: "probe" | "replay"; readonly row: ExecutionRow }

const unknown: Outcome = { kind: "outcome_unknown" }
const inProgressRetryMs = 200

/**
 * What a row says by itself to a request whose epoch was good when it was claimed; undefined where
 * something has to be recorded first. Throws where the call may neither be sent nor answered.
 */
export function admitSeen(row: DecidingRow | undefined, call: ClaimItem): Admitted | undefined {
  if (row === undefined || isOwn(row, call)) return undefined
  const { kind } = admit(row, call, call.epoch)
  switch (kind) {
    case "replay":
    case "probe":
      return { next: kind, row }
    case "conflict":
      throw conflict(call)
    case "in_progress":
      throw inProgress(call)
    default:
      return undefined
  }
}

/** Admits a call whose key has a row. Throws where it may neither be sent nor answered. */
export async function admitLocked(
  tx: Tx,
  call: ClaimItem,
  { leaseMs, leasedAt }: { readonly leaseMs: number; readonly leasedAt: number },
): Promise<Admitted> {
  const runEpoch = await seeEpoch(tx, call)
  const row = await lockExecution(tx, call)
  if (row === undefined) throw inProgress(call)
  const take = async (isAnother: boolean, maybeApplied: boolean): Promise<Admitted> => {
    const { claimId } = call
    const taken = await takeExecution(tx, call, { claimId, leaseMs, isAnother, maybeApplied })
    const { attempts: attempt, createdMs } = taken
    return { next: "send", held: { attempt, createdMs, leasedAt, maybeApplied } }
  }
  const admission = admit(row, call, runEpoch)
  if (isOwn(row, call) && admission.kind !== "lease_lost") return take(false, row.maybeApplied)
  switch (admission.kind) {
    case "repeat":
      return take(true, admission.maybeApplied)
    case "abandon":
      return { next: "probe", row: await endExecution(tx, call, unknown) }
    case "replay":
    case "probe":
      return { next: admission.kind, row }
    case "conflict":
      throw conflict(call)
    case "lease_lost":
      throw leaseLost(call)
    case "in_progress":
    case "send":
      throw inProgress(call)
  }
}

/** Closes a key for good, unless it has an outcome or somebody is sending it. */
export async function sealLocked(
  tx: Tx,
  call: Intent,
): Promise<{ readonly row: ExecutionRow; readonly isAsked: boolean }> {
  const runEpoch = await seeEpoch(tx, call)
  const unsent = seal(undefined, call, runEpoch)
  if (unsent.kind !== "close") throw leaseLost(call)
  const inserted = await insertSealed(tx, call, unsent.outcome)
  if (inserted !== undefined) return { row: inserted, isAsked: false }
  const row = await lockExecution(tx, call)
  if (row === undefined) throw inProgress(call)
  const sealing = seal(row, call, runEpoch)
  switch (sealing.kind) {
    case "close":
      return { row: await endExecution(tx, call, sealing.outcome), isAsked: false }
    case "abandon":
      return { row: await endExecution(tx, call, unknown), isAsked: true }
    case "probe":
      return { row, isAsked: true }
    case "leave":
      return { row, isAsked: false }
    case "lease_lost":
      throw leaseLost(call)
  }
}

/** Its own claim, whose answer was lost: nothing was sent under it. */
function isOwn({ state, claimId }: DecidingRow, call: ClaimItem): boolean {
  return state === "in_flight" && claimId === call.claimId
}

function conflict({ tool }: ExecutionKey): RunwardenError {
  return new RunwardenError("IDEMPOTENCY_CONFLICT", { tool })
}

export function leaseLost({ runId }: Pick<Intent, "runId">): RunwardenError {
  return new RunwardenError("LEASE_LOST", { run_id: runId })
}

export function inProgress({ tool }: ExecutionKey): RunwardenError {
  return new RunwardenError(
    "IDEMPOTENCY_IN_PROGRESS",
    { tool },
    { retryAfterMs: inProgressRetryMs },
  )
}
