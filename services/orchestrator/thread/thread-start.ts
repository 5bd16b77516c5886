/**
 * What becomes of a run whose thread is busy: refused, put in line, or put in the place of the others.
 *
 * 1. Who is in line is asked before the run is stored, so that its first step is prepared only where
 *    it would begin at once. The database decides when it is stored: where the turn was lost in
 *    between, the question is asked anew.
 * 2. The others are cancelled in the transaction that stores the run, or none of it happens.
 */
import { BusyThreadPolicy } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import type { Database, Statement, Tx } from "../../../mesh/database.ts"
import { isCheckViolation } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import type { Change } from "../change/change.ts"
import { storeChanges } from "../change/change-store.ts"
import { cancelRun } from "../run/answers.ts"
import type { RunRecord } from "../run/snapshot.ts"
import { readSnapshot } from "../run/snapshot-store.ts"
import { type Start, storeStarts } from "../start/start-store.ts"
import { enterThread, maxRunsInLine, readLine } from "./thread-store.ts"

/** How a run that names its thread may be stored. */
export type Turn =
  | { readonly kind: "now" }
  /** Behind those that are in line. */
  | { readonly kind: "later" }
  /** Once those that are in line are cancelled. */
  | { readonly kind: "instead" }

/** Asks for a turn of the run's thread. Throws THREAD_BUSY where the request wants it so. */
export async function askForTurn(
  database: Database,
  { workspaceId, threadId, isInLine }: RunRecord,
  policy: BusyThreadPolicy,
): Promise<Turn> {
  if (!isInLine) return { kind: "now" }
  const [runId] = await enterThread(database, { workspaceId, threadId })
  if (runId === undefined) return { kind: "now" }
  switch (policy) {
    case BusyThreadPolicy.REJECT:
      throw new RunwardenError("THREAD_BUSY", { thread_id: threadId, run_id: runId })
    case BusyThreadPolicy.CANCEL_OTHER:
      return { kind: "instead" }
    default:
      return { kind: "later" }
  }
}

/** Whether a run could not be stored as running because another one came first. */
export function isTurnLost(error: unknown): boolean {
  return isCheckViolation(error, "threads_turn")
}

/** What a start fails with where the line of its thread is as long as it may be. */
export function lineLimitError(error: unknown): unknown {
  if (!isCheckViolation(error, "threads_line_limit")) return error
  const metadata = { limit: "thread_runs", maximum: String(maxRunsInLine) }
  return new RunwardenError("LIMIT_EXCEEDED", metadata, { cause: error })
}

/** How others were cancelled for a start, and when, by the clock of the database. */
export interface Replacement {
  readonly at: Date
  readonly cancelled: readonly Change[]
}

/**
 * Cancels everybody in line and stores the run. Undefined where somebody came in between: then
 * nothing is stored. Fails where the request is known.
 */
export async function startInstead(
  database: Database,
  start: Start,
  maxOpenApprovals: number,
): Promise<Replacement | undefined> {
  const { workspaceId, runId, threadId } = start.change.run
  try {
    return await database.worker(
      [workspaceId],
      async (tx) => {
        const within = statementsOf(tx)
        const line = await readLine(tx, { workspaceId, threadId })
        const cancelled = await cancelAll(tx, workspaceId, line)
        const items = cancelled.map((change) => ({ change, answer: undefined }))
        const stored = items.length === 0 ? [] : await storeChanges(within, items, maxOpenApprovals)
        if (stored.some(({ kind }) => kind !== "stored")) throw new Interrupted()
        const known = new Set<string>()
        const { results } = await storeStarts(within, [start], { known, maxOpenApprovals })
        const [started] = results
        if (started?.kind !== "started") throw new Error("the request's id was used before")
        const before = new Set(line)
        const now = await readLine(tx, { workspaceId, threadId })
        if (now.some((other) => other !== runId && !before.has(other))) throw new Interrupted()
        return { at: started.at, cancelled }
      },
      { name: "startInstead" },
    )
  } catch (error) {
    if (error instanceof Interrupted) return undefined
    throw error
  }
}

/** The changes that end these runs; a run that is ending already needs none. */
async function cancelAll(
  tx: Tx,
  workspaceId: string,
  runIds: readonly string[],
): Promise<readonly Change[]> {
  const changes: Change[] = []
  for (const id of runIds) {
    const snapshot = await readSnapshot(tx, workspaceId, { kind: "run", id })
    if (snapshot === undefined || snapshot.run.endTime !== undefined) continue
    const change = cancelRun(snapshot, { etag: "" })
    if (change !== undefined) changes.push(change)
  }
  return changes
}

/** Statements of batches, carried out in this transaction. */
function statementsOf(tx: Tx): Pick<Database, "batch"> {
  return {
    batch: <Row>(_: readonly string[], { text }: Statement, values: readonly unknown[]) =>
      tx.query<Row>(text, values),
  }
}

/** Undoes the transaction: what it found has changed under it. */
class Interrupted extends Error {}
