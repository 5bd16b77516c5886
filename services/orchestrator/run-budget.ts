/** A run's budget where its calls are admitted: asked before, charged with the call itself. */
import { type CallUsage, type Exhaustion, exhaustionOf, type RunUse, warningsOf } from "./budget.ts"
import type { Change } from "./change.ts"

/** The budget of the run that has no room for the next call; undefined where it fits. */
export function runExhaustion(place: Pick<Change, "run" | "before">): Exhaustion | undefined {
  const { budget } = place.run
  return budget === undefined ? undefined : exhaustionOf(budget, useOf(place))
}

/** Admits a call that is ready: charges it, and warns of what is nearly used up. */
export function admitCall(change: Change, stepIndex: number): void {
  const wallMs = wallMsAtLastCall(change)
  const { attempts } = change.call(stepIndex)
  charging(change, { wallMs }, () => {
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
  const before = { ...useOf(change), ...earlier }
  charge()
  const { calls, tokens, costMicros } = useOf(change)
  const wallMs = "wallMs" in earlier ? useOf(change).wallMs : before.wallMs
  const now = { calls, tokens, costMicros, wallMs }
  for (const meter of warningsOf(budget, before, now)) change.entries.budgetWarned(meter)
}

/** Denies the current call, and ends the run with it; what was done before stays done. */
export function exhaust(change: Change, exhaustion: Exhaustion): void {
  const reason = "budget_exhausted"
  const { budget, used, limit, resetTime } = exhaustion
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

function useOf({ run, before }: Pick<Change, "run" | "before">): RunUse {
  // A run that is not stored yet has used no time.
  const isNew = run.revision === 0
  const wallMs = isNew ? 0 : Math.max(0, before.clock.now() - beginOf(run))
  const tokens = run.usedInputTokens + run.usedOutputTokens
  return { calls: run.usedCalls, wallMs, tokens, costMicros: run.usedCostMicros }
}

function wallMsAtLastCall({ run, before }: Change): number {
  const started = before.calls.map(({ startTime }) => startTime?.getTime() ?? 0)
  return Math.max(0, Math.max(...started) - beginOf(run))
}

function beginOf({ startTime, createTime }: Change["run"]): number {
  return (startTime ?? createTime).getTime()
}
