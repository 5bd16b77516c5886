/** What the end of a call, or of all patience, means for a run: on a change that is being built. */

import { settleUsage } from "../budget/run-budget.ts"
import type { Change } from "../change/change.ts"
import { quarantined } from "../run/run.ts"
import type { ToolCallRecord } from "../run/snapshot.ts"
import { type Outcome, resultTooLarge } from "./execution.ts"
import { denialOf, type Judgement } from "./judgement.ts"

export interface Conclusion {
  readonly outcome: Outcome
  /** What moderation says about what would be passed on; absent where nothing is. */
  readonly judgement: Judgement | undefined
  readonly executionMs: number
  readonly traceId: string
}

/** Records the end of the executing call, and what follows for the run. */
export function concludeCall(change: Change, stepIndex: number, conclusion: Conclusion): void {
  const { outcome, executionMs, traceId } = conclusion
  const { usage } = outcome
  settleUsage(change, usage)
  switch (outcome.kind) {
    case "succeeded":
      change.moveCall(stepIndex, "succeed", { result: outcome.result, traceId }, executionMs, usage)
      change.countResult(outcome.text)
      break
    case "failed": {
      const { error, reason } = outcome
      change.moveCall(stepIndex, "fail", { error, reason, traceId }, executionMs, usage)
      break
    }
    case "unknown":
      change.moveCall(stepIndex, "lose", { reason: "outcome_unknown", traceId }, executionMs, usage)
      break
  }
  passOn(change, stepIndex, conclusion.judgement)
}

/** The call as it will be once its outcome is recorded, as far as its judge looks at it. */
export function endedBy(call: ToolCallRecord, outcome: Outcome): ToolCallRecord {
  return {
    ...call,
    result: outcome.kind === "succeeded" ? outcome.result : undefined,
    error: outcome.kind === "failed" ? outcome.error : undefined,
    reason: outcome.kind === "failed" ? outcome.reason : "",
  }
}

/** Lets the run go on from a call that has ended, or end with it. */
export function passOn(change: Change, stepIndex: number, judgement: Judgement | undefined): void {
  const isBlocked = judgement?.verdict === "blocked"
  if (judgement !== undefined) change.judge(judgement, stepIndex)
  if (judgement !== undefined && isBlocked) {
    change.setCall(stepIndex, { isWithheld: true, policyDenial: denialOf(judgement) })
  }
  const { run, before } = change
  const call = change.call(stepIndex)
  if (run.state === "cancelling") {
    change.moveRun({ kind: "call_ended" })
  } else if (judgement !== undefined && isBlocked) {
    change.moveRun({ kind: "fail", reason: "policy_denied" }, denialOf(judgement))
  } else if (before.clock.now() >= run.deadline.getTime()) {
    change.moveRun({ kind: "expire", reason: "deadline_exceeded" })
  } else if (call.state === "outcome_unknown") {
    change.moveRun({ kind: "wait", reason: "outcome_unknown" })
  } else if (call.state === "failed" && !mayContinue(call)) {
    const reason = call.reason === resultTooLarge ? resultTooLarge : "tool_failed"
    change.moveRun({ kind: "fail", reason })
  } else {
    change.setRun({ stepIndex: stepIndex + 1 })
    if (stepIndex + 1 === run.stepCount) change.moveRun({ kind: "succeed" })
  }
}

/** A tool's own error is data where the plan says so; a call that could not be made never is. */
export function mayContinue(call: Pick<ToolCallRecord, "onError" | "reason">): boolean {
  return call.onError === "continue" && call.reason === "tool_failed"
}

/** Ends a run for lack of time, and the approval it may be waiting for with it. */
export function expire(change: Change, reason: string): void {
  const { approval } = change.before
  const call = change.call(change.run.stepIndex)
  if (call.state === "awaiting_approval" && approval?.state === "pending") {
    change.moveApproval(approval, "expire")
    change.moveCall(call.stepIndex, "expire", { reason })
  }
  change.moveRun({ kind: "expire", reason })
}

/** Where a call stands when its run may be set aside: something can still be done about it. */
const actionable: readonly ToolCallRecord["state"][] = [
  "proposed",
  "ready",
  "executing",
  "succeeded",
  "failed",
]

/**
 * What becomes of a run over which its owners vanish again and again: it is set aside until a person
 * releases or cancels it. One that only has to end is given up.
 */
export function quarantine(change: Change): void {
  const { run } = change
  const isEnding = run.state === "cancelling" || change.isLate()
  if (isEnding || !actionable.includes(change.call(run.stepIndex).state)) {
    giveUp(change)
    return
  }
  if (run.state === "queued") change.moveRun({ kind: "claim" })
  if (run.state === "requires_action") change.moveRun({ kind: "resume" })
  change.moveRun({ kind: "wait", reason: quarantined })
}

function giveUp(change: Change): void {
  const reason = "tool_failed"
  const call = change.call(change.run.stepIndex)
  if (change.run.state === "queued") change.moveRun({ kind: "claim" })
  if (call.state === "executing") {
    change.moveCall(call.stepIndex, call.effect === "read" ? "fail" : "lose", { reason })
  }
  const isCancelling = change.run.state === "cancelling"
  change.moveRun(isCancelling ? { kind: "call_ended" } : { kind: "fail", reason })
}
