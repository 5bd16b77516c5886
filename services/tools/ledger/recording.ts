/** How a sending ends in the ledger, and what its request is then answered. */

import type { Database } from "../../../mesh/database.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { type Held, inProgress } from "./admission.ts"
import type { AttemptFailure } from "./answer.ts"
import type { ClaimItem } from "./execution-group-store.ts"
import {
  type ExecutionKey,
  type ExecutionRow,
  findExecution,
  outcomeValues,
} from "./execution-store.ts"
import type { Outcome } from "./ledger.ts"
import type { LedgerWriter } from "./ledger-writer.ts"

/** What a request is answered. */
export interface Executed {
  readonly row: ExecutionRow
  readonly isReplayed: boolean
  /** What the attempt was, where it ended nothing. */
  readonly failure?: AttemptFailure
}

export interface RecordingDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly writer: LedgerWriter
}

type Sent = Pick<Held, "attempt" | "createdMs">

/**
 * Records an outcome. What the tool itself said is so whoever holds the row; a judgement without an
 * answer is recorded by the sender that holds it alone.
 */
export async function recordOutcome(
  { database, runtime, writer }: RecordingDeps,
  intent: ClaimItem,
  { attempt, createdMs }: Sent,
  outcome: Outcome,
  isToolsWord: boolean,
): Promise<Executed> {
  const [state, result, error, usage] = outcomeValues(outcome)
  const settled = await writer.settle({
    ...intent,
    ...{ state, result, error, usage, maybeApplied: false },
    attempt: isToolsWord ? null : attempt,
  })
  runtime.reached("after_outcome")
  if (settled === undefined) {
    const { tool, workspaceId } = intent
    runtime.log.info({ tool, workspaceId, attempt, outcome: outcome.kind }, "late answer")
    return found(database, intent)
  }
  const row: ExecutionRow = {
    state: outcome.kind,
    result: outcome.kind === "succeeded" ? outcome.result : null,
    error: outcome.kind === "failed" ? outcome.error : null,
    usage: outcome.usage ?? null,
    attempts: attempt,
    createdMs,
    endedMs: settled.endedMs,
  }
  return { row, isReplayed: false }
}

/** Gives the row back, so that the next request for its key may send again at once. */
export async function giveBack(
  { database, writer }: RecordingDeps,
  intent: ClaimItem,
  { attempt, createdMs }: Sent,
  { maybeApplied, failure }: { readonly maybeApplied: boolean; readonly failure: AttemptFailure },
): Promise<Executed> {
  const open = { state: "in_flight", result: null, error: null, usage: null } as const
  const settled = await writer.settle({ ...intent, ...open, attempt, maybeApplied })
  if (settled === undefined) return found(database, intent)
  const row: ExecutionRow = { ...open, attempts: attempt, createdMs, endedMs: null }
  return { row, isReplayed: false, failure }
}

/** The row as somebody else left it. */
async function found(database: Database, key: ExecutionKey): Promise<Executed> {
  const row = await database.tenant(key.workspaceId, (tx) => findExecution(tx, key), {
    name: "find execution",
  })
  if (row === undefined || row.state === "in_flight") throw inProgress(key)
  return { row, isReplayed: false }
}
