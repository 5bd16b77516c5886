/** Waiting until a run has ended or waits for a person. */
import type { Database } from "../../../mesh/database.ts"
import { forgetDeadline, watchDeadline } from "../../../mesh/deadline-timers.ts"
import { notFound } from "../../../mesh/errors.ts"
import type { Executor } from "../engine/executor.ts"
import { Scope } from "../scope.ts"
import type { RestPoller } from "./rest-poller.ts"
import { findRun } from "./run-store.ts"
import type { RunRecord } from "./snapshot.ts"

export interface RunWaitDeps {
  readonly database: Database
  readonly executor: Executor
  readonly rests: RestPoller
  /** Aborts when the service stops. */
  readonly stopping: AbortSignal
}

/**
 * The run once it rests, or as it is when the time is over. `end` is when this replica has no more to
 * do for it, where it carries the run out.
 */
export async function waitForRest(
  { database, rests, stopping }: RunWaitDeps,
  run: RunRecord,
  end: ReturnType<Executor["endOf"]>,
  waitMs: number,
  caller: AbortSignal,
): Promise<RunRecord> {
  if (isAtRest(run)) return run
  const { workspaceId, runId } = run
  const scope = new Scope()
  const over = { expire: () => scope.end("the time is over") }
  const give = () => scope.end("nobody waits any more")
  const slot = watchDeadline(waitMs, over)
  const signals = [caller, stopping]
  for (const signal of signals) signal.addEventListener("abort", give)
  if (signals.some(({ aborted }) => aborted)) give()
  try {
    const ended = end === undefined ? undefined : await scope.race(end)
    if (ended !== undefined) return ended
    await rests.atRest(run, scope)
  } catch (error) {
    if (!scope.isEnded) throw error
  } finally {
    forgetDeadline(slot, over)
    for (const signal of signals) signal.removeEventListener("abort", give)
  }
  const read = { name: "waitForRest", isOneRead: true }
  const current = await database.tenant(workspaceId, (tx) => findRun(tx, workspaceId, runId), read)
  if (current === undefined) throw notFound("run", runId)
  return current
}

function isAtRest({ state, endTime }: RunRecord): boolean {
  return endTime !== undefined || state === "requires_action"
}
