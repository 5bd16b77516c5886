/**
 * Watching a run: its history from a place on, and what is added to it, until the run has ended.
 *
 * 1. The database is what is watched; notices of this process only shorten the wait. So a run may
 *    move between replicas while it is watched.
 * 2. A watcher holds no connection while it waits, and ends with its caller.
 * 3. The history of a run that has ended is complete: the end is seen before its last page is read.
 */
import type { RunEvent } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import type { OrchestratorConfig } from "../config.ts"
import { historyAfter } from "../journal/journal-store.ts"
import type { Notifier } from "./notifier.ts"
import { isTerminalRun } from "./run.ts"
import { toRunEvents } from "./run-message.ts"
import { findRunState } from "./run-store.ts"

export interface WatchDeps {
  readonly database: Database
  readonly notifier: Notifier
  readonly config: OrchestratorConfig["watch"]
  /** Aborts when the service stops. */
  readonly stopping: AbortSignal
}

export type Watch = (
  request: { readonly workspaceId: string; readonly runId: string; readonly after: number },
  signal: AbortSignal,
) => AsyncIterable<RunEvent>

const pageSize = 200

export function createWatch({ database, notifier, config, stopping }: WatchDeps): Watch {
  let watchers = 0
  return async function* watch({ workspaceId, runId, after }, callerSignal) {
    if (watchers >= config.maxWatchers) {
      const maximum = String(config.maxWatchers)
      throw new RunwardenError("LIMIT_EXCEEDED", { limit: "watchers", maximum })
    }
    watchers += 1
    // Before the first look: what changes from then on is noticed.
    using notices = notifier.listen(runId)
    try {
      const signal = AbortSignal.any([callerSignal, stopping])
      let sequence = after
      for (;;) {
        if (stopping.aborted) throw new RunwardenError("SHUTTING_DOWN", { service: "orchestrator" })
        if (signal.aborted) return
        const { isEnded, rows } = await look(workspaceId, runId, sequence, signal)
        const events = rows.flatMap((row) => toRunEvents(row, sequence))
        for (const event of events) {
          yield event
          sequence = Number(event.sequence)
        }
        if (rows.length === pageSize) continue
        if (isEnded) return
        if (events.length === 0) await notices.wait(config.pollMs, signal)
      }
    } finally {
      watchers -= 1
    }
  }

  function look(workspaceId: string, runId: string, after: number, signal: AbortSignal) {
    return database.tenant(
      workspaceId,
      async (tx) => {
        const state = await findRunState(tx, workspaceId, runId)
        if (state === undefined) throw notFound("run", runId)
        const rows = await historyAfter(tx, workspaceId, runId, { after, limit: pageSize })
        return { isEnded: isTerminalRun(state), rows }
      },
      { name: "watchRun", signal },
    )
  }
}
