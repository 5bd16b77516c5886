/**
 * Owns: when the alerts of which workspace are looked at, writing what came out, and deleting what is
 * past retention.
 *
 * A workspace is `quiet → due (event arrived) → evaluated → due (timer) … → quiet`.
 *
 * Invariants:
 * 1. New events are looked at after `debounceMs` by the replica that took them in; bursts of events
 *    make one evaluation. These evaluations come one after the other and take a fiftieth of a
 *    replica's time, a tenth where one alone takes long: what that delays, the timer looks at.
 * 2. A workspace with recent events or live alerts is looked at every `intervalMs` by some replica,
 *    so that alerts are resolved when nothing arrives any more; a quiet one when the oldest of what
 *    it holds is past retention. The timer survives a restart.
 * 3. Two evaluations of one workspace at once do no harm: live alerts are locked, and the database
 *    holds at most one live alert per code.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database, Tx } from "../../mesh/database.ts"
import { createExpiringMap, monotonicClock } from "../../mesh/expiring-map.ts"
import { newId } from "../../mesh/ids.ts"
import type { Runtime } from "../../mesh/service.ts"
import {
  type AlertChange,
  type AlertCode,
  alertCodes,
  alertKinds,
  clearLevel,
  evaluate,
} from "./alert.ts"
import {
  type AlertRow,
  insertAlert,
  lockLiveAlerts,
  resolveAlert,
  updateReading,
} from "./alert-store.ts"
import type { AlertConfig } from "./config.ts"
import {
  claimDueEvaluations,
  hasEventsSince,
  postponeEvaluation,
  rememberEvaluation,
} from "./evaluation-store.ts"
import { countByStep, countDenials } from "./metrics-store.ts"
import { readingsOf } from "./readings.ts"
import { removeExpired } from "./retention-store.ts"

/** How many windows before the present one say what is usual. */
const usualWindows = 12
const claimLimit = 32
const removeLimit = 5_000
const maxWatched = 100_000

export interface Evaluator extends AsyncDisposable {
  start(): void
  /** New events of the workspace are stored. */
  arrived(workspaceId: string): void
  /** Which of these workspaces the timer may not know of; who asks tells it with their events. */
  unwatched(workspaceIds: readonly string[]): Watch
}

/** Workspaces for the timer, which those that it looks at within the interval are already with. */
export interface Watch {
  readonly workspaceIds: readonly string[]
  readonly intervalMs: number
}

/** Nothing to do until then, or until something happens. */
interface Quiet {
  readonly untilMs: number | undefined
}

type Evaluation = (tx: Tx) => Promise<Quiet | undefined>

export function createEvaluator(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly config: AlertConfig
  readonly retentionMs: number
  readonly now: () => number
}): Evaluator {
  const { database, runtime, config, retentionMs, now } = deps
  const stop = new AbortController()
  const waiting = new Set<string>()
  const watched = createExpiringMap<true>(monotonicClock, maxWatched)
  const running = new Set<Promise<void>>()
  let loop: Promise<void> | undefined
  let lane = Promise.resolve()

  function arrived(workspaceId: string): void {
    watched.set(workspaceId, true, performance.now() + config.intervalMs / 2)
    if (stop.signal.aborted || waiting.has(workspaceId)) return
    waiting.add(workspaceId)
    track(afterDebounce(workspaceId))
  }

  function unwatched(workspaceIds: readonly string[]): Watch {
    const unknown = workspaceIds.filter((id) => watched.get(id) === undefined)
    return { workspaceIds: unknown, intervalMs: config.intervalMs }
  }

  async function afterDebounce(workspaceId: string): Promise<void> {
    await pause(config.debounceMs)
    lane = lane.then(() => evaluateInTurn(workspaceId))
    await lane
  }

  async function evaluateInTurn(workspaceId: string): Promise<void> {
    // The timer may have been there in the meantime.
    if (!waiting.has(workspaceId)) return
    const startMs = performance.now()
    await evaluateQuietly(workspaceId, evaluateArrival)
    await pause(Math.min(config.intervalMs, restAfter(performance.now() - startMs)))
  }

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      const due = await claim()
      for (const workspaceId of due) await evaluateQuietly(workspaceId, evaluateByTimer)
      if (due.length < claimLimit) await pause(config.pollMs)
    }
  }

  async function claim(): Promise<readonly string[]> {
    const options = { limit: claimLimit, intervalMs: config.intervalMs }
    try {
      return await database.worker([], (tx) => claimDueEvaluations(tx, options), {
        signal: stop.signal,
        name: "claim evaluations",
      })
    } catch (error) {
      if (!stop.signal.aborted) runtime.log.warn({ err: error }, "evaluations cannot be claimed")
      return []
    }
  }

  async function evaluateQuietly(workspaceId: string, work: Evaluation): Promise<void> {
    if (stop.signal.aborted) return
    waiting.delete(workspaceId)
    try {
      const options = { signal: stop.signal, name: "evaluate alerts" }
      const quiet = await database.tenant(workspaceId, work, options)
      if (quiet === undefined) return
      await database.worker([], (tx) => postponeEvaluation(tx, workspaceId, quiet.untilMs))
    } catch (error) {
      if (!stop.signal.aborted) runtime.log.warn({ err: error, workspaceId }, "evaluation failed")
    }
  }

  async function evaluateArrival(tx: Tx): Promise<undefined> {
    await evaluateWorkspace(tx, now())
    await rememberEvaluation(tx, config.intervalMs)
  }

  async function evaluateByTimer(tx: Tx): Promise<Quiet | undefined> {
    const nowMs = now()
    const isLive = await evaluateWorkspace(tx, nowMs)
    const expiry = { beforeMs: nowMs - retentionMs, limit: removeLimit }
    const { isMore, oldestMs } = await removeExpired(tx, expiry)
    // Twice the window: what was received while an idle workspace is put off is not lost to it.
    if (isMore) return { untilMs: nowMs }
    if (isLive || (await hasEventsSince(tx, nowMs - 2 * config.windowMs))) return undefined
    return { untilMs: oldestMs === undefined ? undefined : oldestMs + retentionMs }
  }

  /** Whether alerts are live afterwards. */
  async function evaluateWorkspace(tx: Tx, nowMs: number): Promise<boolean> {
    const live = await lockLiveAlerts(tx)
    const readings = readingsOf(await readEvidence(tx, nowMs))
    const changes = evaluate(config.rules, readings, new Set(live.map(codeOf)))
    for (const change of changes) await apply(tx, change, live)
    return changes.some((change) => change.kind !== "resolve")
  }

  async function readEvidence(tx: Tx, nowMs: number) {
    const startMs = nowMs - config.windowMs
    const usualStartMs = startMs - usualWindows * config.windowMs
    return {
      rows: await countByStep(tx, {
        startMs,
        endMs: Number.POSITIVE_INFINITY,
        stepMs: Number.POSITIVE_INFINITY,
      }),
      usualDenials:
        (await countDenials(tx, { startMs: usualStartMs, endMs: startMs })) / usualWindows,
    }
  }

  async function apply(tx: Tx, change: AlertChange, live: readonly AlertRow[]): Promise<void> {
    const { code, reading } = change
    const { severity, threshold: thresholdName } = alertKinds[code]
    const threshold = config.rules.thresholds[thresholdName]
    const limits = {
      threshold: threshold.value,
      clearLevel: clearLevel(config.rules, code),
      minimumSample: threshold.minimumSample,
    }
    if (change.kind === "fire") {
      const windowSeconds = Math.round(config.windowMs / 1000)
      const alert = { alertId: newId(), code, severity, thresholdName, windowSeconds }
      await insertAlert(tx, { ...alert, ...limits, ...reading })
      return
    }
    const row = live.find((each) => each.code === code)
    if (row === undefined) throw new Error(`${code} is not live`)
    await updateReading(tx, row.alertId, { ...reading, ...limits })
    if (change.kind === "resolve") await resolveAlert(tx, row.alertId)
  }

  function track(task: Promise<void>): void {
    running.add(task)
    void task.finally(() => running.delete(task))
  }

  function pause(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: stop.signal }).catch(() => {})
  }

  return {
    arrived,
    unwatched,
    start() {
      loop ??= run()
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await Promise.all([loop, ...running])
    },
  }
}

/** How long no arrival is looked at after an evaluation; on a machine that is busy all take long. */
function restAfter(tookMs: number): number {
  return Math.min(49 * tookMs, Math.max(2_000, 9 * tookMs))
}

/** The code of a stored alert. One that this version no longer knows must not go on unseen. */
function codeOf(row: AlertRow): AlertCode {
  const code = alertCodes.find((each) => each === row.code)
  if (code === undefined) throw new Error(`unknown alert code ${row.code}`)
  return code
}
