/**
 * Which of the runs that somebody waits for have come to rest, whoever carries them out.
 *
 * Owns: the waits of this process for runs that it does not carry out, and the look at all of them.
 *
 * 1. The database is asked, for all of them at once and often, while anybody waits; else never.
 */
import type { Database, Statement } from "../../../mesh/database.ts"
import { pause } from "../pause.ts"
import type { Scope } from "../scope.ts"

export interface RestPoller extends AsyncDisposable {
  /** Resolves when the run has ended or waits for somebody; rejects when the scope ends first. */
  atRest(run: WaitedRun, scope: Scope): Promise<void>
}

interface WaitedRun {
  readonly workspaceId: string
  readonly runId: string
}

const pollMs = 50

export function createRestPoller(database: Database): RestPoller {
  const waits = new Map<WaitedRun, () => void>()
  const stop = new AbortController()
  let loop: Promise<void> | undefined

  async function look(): Promise<void> {
    while (waits.size > 0 && !stop.signal.aborted) {
      const runs = [...waits.keys()]
      const workspaceIds = runs.map(({ workspaceId }) => workspaceId)
      const values = [workspaceIds, runs.map(({ runId }) => runId)]
      const options = { signal: stop.signal }
      const rows = await database
        .batch<{ readonly place: number }>([...new Set(workspaceIds)], statement, values, options)
        // Whoever waits does so until its own time is over, also for the database.
        .catch(() => [])
      for (const { place } of rows) {
        const run = runs[place - 1]
        if (run !== undefined) waits.get(run)?.()
      }
      await pause(pollMs, stop.signal)
    }
    loop = undefined
  }

  return {
    async atRest({ workspaceId, runId }, scope) {
      // A key of its own: several may wait for one run.
      const run = { workspaceId, runId }
      const { promise, resolve } = Promise.withResolvers<void>()
      waits.set(run, resolve)
      loop ??= look()
      try {
        await scope.race(promise)
      } finally {
        waits.delete(run)
      }
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await loop
    },
  }
}

const statement: Statement = {
  name: "runs-at-rest",
  text: `select waited.place from
      unnest($1::uuid[], $2::uuid[]) with ordinality as waited (workspace_id, run_id, place)
    join runs r on r.workspace_id = waited.workspace_id and r.run_id = waited.run_id
    where r.end_time is not null or r.state = 'requires_action'`,
}
