/**
 * Owns: one statement for many rows from its connection to its answer, in one round trip.
 *
 * 1. The workspaces are set for this transaction alone, in the round trip of the statement.
 * 2. The commit is sent with the statement. It is sent again only after a conflict, or when Postgres
 *    itself ended the connection before the statement was done: both leave nothing behind.
 * 3. Who goes while waiting for a connection takes the statement back; once it is sent, its outcome
 *    must be known.
 */
import type pg from "pg"
import { acquire, attempt, type DatabaseWork, type Outcome } from "./attempts.ts"
import { faultOf, isReported, isSilence } from "./database-errors.ts"
import { type Progress, roundTrip, type Step } from "./round-trip.ts"

/** Runs the last step behind the others as one transaction, again where that is safe and may help. */
export function runBatch<Row>(work: DatabaseWork, steps: readonly Step[]): Promise<readonly Row[]> {
  return attempt(work, () => tryOnce<Row>(work, steps))
}

async function tryOnce<Row>(
  { pool, signal }: DatabaseWork,
  steps: readonly Step[],
): Promise<Outcome<readonly Row[]>> {
  let client: pg.PoolClient
  try {
    client = await acquire(pool, signal)
  } catch (error) {
    return { kind: "failed", error, isRepeatable: faultOf(error) === "unreachable" }
  }
  const progress: Progress = { state: "unsent" }
  try {
    const value = await roundTrip<Row>(client, steps, progress)
    client.release()
    return { kind: "done", value }
  } catch (error) {
    const fault = faultOf(error)
    client.release(fault === "unreachable" || isSilence(error))
    const isUndone = progress.state === "unsent" || (progress.state === "sent" && isReported(error))
    const isRepeatable = fault === "conflict" || (fault === "unreachable" && isUndone)
    return { kind: "failed", error, isRepeatable }
  }
}
