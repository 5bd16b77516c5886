/** How far runs got: a load whose runs never get to a tool proves nothing. */
import type { StartedRun } from "./history.ts"
import type { Death } from "./supervised-process.ts"
import type { World } from "./world.ts"

/** Runs that ended, of all that were acknowledged. */
export interface Reach {
  /** Got as far as a tool, those that a restore undid later among them. */
  readonly executed: number
  /**
   * Got no further than the wire: their UNSAFE call was sent, and the provider died before it knew of
   * it. Such a call is never sent again.
   */
  readonly lost: number
}

/** A run is acknowledged, and seen ended, a moment after it was. */
const slackMs = 2_000

/** `deaths` are those of the provider. */
export function reachOf(world: World, deaths: readonly Death[]): Reach {
  const { history, ledger, runs, executions } = world
  const arrived = new Set(ledger.flatMap(({ kind, runId }) => (kind === "attempt" ? [runId] : [])))
  const open = new Set(runs.flatMap(({ runId, isEnded }) => (isEnded ? [] : [runId])))
  const endTimes = new Map(
    history.flatMap((entry) =>
      entry.kind === "run_seen" && entry.isTerminal ? [[entry.runId, entry.at] as const] : [],
    ),
  )
  const sentSteps = Map.groupBy(
    executions.filter(({ attempts }) => attempts > 0),
    ({ runId }) => runId,
  )
  const ended = history
    .filter((entry) => entry.kind === "run_started")
    .filter(({ runId }) => !open.has(runId))
  const isLost = ({ runId, at, steps }: StartedRun) => {
    const sent = sentSteps.get(runId) ?? []
    const isUnsafe = sent.some(({ stepIndex }) => steps[stepIndex]?.effect === "unsafe")
    const end = endTimes.get(runId) ?? at
    return isUnsafe && deaths.some((death) => death.at > at - slackMs && death.at < end + slackMs)
  }
  return {
    executed: ended.filter(({ runId }) => arrived.has(runId)).length,
    lost: ended.filter((run) => !arrived.has(run.runId) && isLost(run)).length,
  }
}
