/** A run's budget where its calls are admitted: asked before, charged with the call itself. */

import type { Change } from "../change/change.ts"
import { type CallUsage, type Exhaustion, exhaustionOf, type RunUse, warningsOf } from "./budget.ts"
import { limitReasons, type Place, type RunLimits, reachedLimit } from "./run-limits.ts"

/** The budget or limit of the run that has no room for a step's call; undefined where it fits. */
export function runExhaustion(
  place: Place,
  stepIndex: number,
  limits: RunLimits,
): Exhaustion | undefined {
  const reached = reachedLimit(place, limits)
  if (reached !== undefined) return { ...reached, resetTime: undefined }
  const { budget } = place.run
  if (budget === undefined) return undefined
  return exhaustionOf(budget, useOf(place, stepIndex), place.before.calls[stepIndex]?.maxUsage)
}

/** Admits a call that is ready: charges it, and warns of what is nearly used up. */
export function admitCall(change: Change, stepIndex: number): void {
  const wallMs = wallMsAtLastCall(change)
  const { attempts } = change.call(stepIndex)
  charging(change, { wallMs, steps: stepIndex }, () => {
    change.moveCall(stepIndex, "execute", { attempts: attempts + 1 })
  })
}

/** Counts what a call has used up, whatever became of it. */
export function settleUsage(change: Change, usage: CallUsage | undefined): void {
  if (usage !== undefined) charging(change, {}, () => change.spend(usage))
}

/** Warns of what is nearly used up by then and was not before. */
function charging(change: Change, earlier: Partial<RunUse>, charge: () => void): void {
  const { budget } = change.run
  if (budget === undefined) {
    charge()
    return
  }
  const begun = change.run.stepIndex + 1
  const before = { ...useOf(change, begun), ...earlier }
  charge()
  const { calls, tokens, costMicros, steps } = useOf(change, begun)
  const wallMs = "wallMs" in earlier ? useOf(change, begun).wallMs : before.wallMs
  const now = { calls, tokens, costMicros, wallMs, steps }
  for (const meter of warningsOf(budget, before, now)) change.entries.budgetWarned(meter)
}

/** Denies the current call, and ends the run with it; what was done before stays done. */
export function exhaust(change: Change, exhaustion: Exhaustion): void {
  const { budget, used, limit, resetTime } = exhaustion
  const reason =
    budget === "run_events" || budget === "run_payload_bytes"
      ? limitReasons[budget]
      : "budget_exhausted"
  const metadata = {
    ...{ budget, used: String(used), limit: String(limit) },
    ...(resetTime === undefined ? {} : { reset_time: resetTime.toISOString() }),
  }
  const error = { reason, message: "", metadata }
  const call = change.call(change.run.stepIndex)
  if (change.run.state === "queued") change.moveRun({ kind: "claim" })
  if (call.state === "proposed") change.moveCall(call.stepIndex, "moderate")
  const event = call.state === "ready" ? "revoke" : "deny"
  change.moveCall(call.stepIndex, event, { reason, error })
  change.moveRun({ kind: "fail", reason })
}

/** What is used with so many steps begun. */
function useOf({ run, before }: Pick<Change, "run" | "before">, steps: number): RunUse {
  // A run that is not stored yet has used no time.
  const isNew = run.revision === 0
  const wallMs = isNew ? 0 : Math.max(0, before.clock.now() - beginOf(run))
  const tokens = run.usedInputTokens + run.usedOutputTokens
  return { steps, calls: run.usedCalls, wallMs, tokens, costMicros: run.usedCostMicros }
}

function wallMsAtLastCall({ run, before }: Change): number {
  const started = before.calls.map(({ startTime }) => startTime?.getTime() ?? 0)
  return Math.max(0, Math.max(...started) - beginOf(run))
}

function beginOf({ startTime, createTime }: Change["run"]): number {
  return (startTime ?? createTime).getTime()
}
