/**
 * Owns: when the alerts of which workspace are looked at, and writing what came out.
 *
 * A workspace is `quiet → due (event arrived) → evaluated → due (timer) … → quiet`.
 *
 * Invariants:
 * 1. New events are looked at within `debounceMs`, by the replica that took them in; bursts of
 *    events make one evaluation, and evaluations take at most a tenth of a replica's time.
 * 2. A workspace with recent events or live alerts is looked at every `intervalMs` by some replica,
 *    so that alerts are resolved when nothing arrives any more. The timer survives a restart.
 * 3. Two evaluations of one workspace at once do no harm: live alerts are locked, and the database
 *    holds at most one live alert per code.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database, Tx } from "../../mesh/database.ts"
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
  forgetEvaluation,
  hasEventsSince,
  rememberEvaluation,
} from "./evaluation-store.ts"
import { countByStep, countDenials, countUnknownOutcomes } from "./metrics-store.ts"
import { readingsOf } from "./readings.ts"

/** How many windows before the present one say what is usual. */
const usualWindows = 12
const claimLimit = 32

export interface Evaluator extends AsyncDisposable {
  start(): void
  /** New events of the workspace are stored. */
  arrived(workspaceId: string): void
}

export function createEvaluator(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly config: AlertConfig
  readonly now: () => number
}): Evaluator {
  const { database, runtime, config, now } = deps
  const stop = new AbortController()
  const waiting = new Set<string>()
  const running = new Set<Promise<void>>()
  let loop: Promise<void> | undefined
  let lastTookMs = 0

  function arrived(workspaceId: string): void {
    if (stop.signal.aborted || waiting.has(workspaceId)) return
    waiting.add(workspaceId)
    track(afterDebounce(workspaceId))
  }

  async function afterDebounce(workspaceId: string): Promise<void> {
    await pause(Math.min(config.intervalMs, Math.max(config.debounceMs, lastTookMs * 10)))
    waiting.delete(workspaceId)
    await evaluateQuietly(workspaceId)
  }

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      const due = await claim()
      for (const workspaceId of due) await evaluateQuietly(workspaceId)
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

  async function evaluateQuietly(workspaceId: string): Promise<void> {
    if (stop.signal.aborted) return
    const startMs = performance.now()
    try {
      const isIdle = await database.tenant(workspaceId, evaluateWorkspace, {
        signal: stop.signal,
        name: "evaluate alerts",
      })
      if (isIdle) await database.worker([], (tx) => forgetEvaluation(tx, workspaceId))
    } catch (error) {
      if (!stop.signal.aborted) runtime.log.warn({ err: error, workspaceId }, "evaluation failed")
    } finally {
      lastTookMs = performance.now() - startMs
    }
  }

  /** True when the timer has nothing to do here any more. */
  async function evaluateWorkspace(tx: Tx): Promise<boolean> {
    const nowMs = now()
    const live = await lockLiveAlerts(tx)
    const readings = readingsOf(await readEvidence(tx, nowMs))
    const changes = evaluate(config.rules, readings, new Set(live.map(codeOf)))
    for (const change of changes) await apply(tx, change, live)
    const isLive = changes.some((change) => change.kind !== "resolve")
    // Twice the window: what was received while an idle workspace is forgotten is not lost to it.
    if (!isLive && !(await hasEventsSince(tx, nowMs - 2 * config.windowMs))) return true
    await rememberEvaluation(tx, config.intervalMs)
    return false
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
      unknownOutcomes: await countUnknownOutcomes(tx),
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
    start() {
      loop ??= run()
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await Promise.all([loop, ...running])
    },
  }
}

/** The code of a stored alert. One that this version no longer knows must not go on unseen. */
function codeOf(row: AlertRow): AlertCode {
  const code = alertCodes.find((each) => each === row.code)
  if (code === undefined) throw new Error(`unknown alert code ${row.code}`)
  return code
}
