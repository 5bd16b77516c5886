/** What people do to a run: cancel it, release it, answer its approval, settle its call. Decided without I/O. */
import { illegalTransition, RunwardenError } from "../../../mesh/errors.ts"
import type { Caller } from "../../../mesh/identity.ts"
import {
  type Forbidden,
  type GivenAnswer,
  hasAnswered,
  weighAnswer,
} from "../approval/approval-answer.ts"
import { Change } from "../change/change.ts"
import { isQuarantined, isTerminalRun, nextRunStates } from "./run.ts"
import { etagOf } from "./run-message.ts"
import type { ApprovalRecord, Snapshot, ToolCallRecord, ToolFailure } from "./snapshot.ts"
import { nextToolCallStates } from "./tool-call.ts"

/** Ends a run: no call of it starts once this is stored. Undefined where it is ending already. */
export function cancelRun(
  snapshot: Snapshot,
  { etag }: { readonly etag: string },
): Change | undefined {
  const { run, calls } = snapshot
  if (etag !== "" && etag !== etagOf(run)) {
    throw new RunwardenError("ETAG_MISMATCH", { resource: "run", id: run.runId })
  }
  if (run.state === "cancelled" || run.state === "cancelling") return undefined
  if (isTerminalRun(run.state)) {
    throw illegalTransition("run", run.state, "cancelled", nextRunStates(run.state))
  }
  const change = new Change(snapshot)
  const isExecuting = calls[run.stepIndex]?.state === "executing"
  change.moveRun({ kind: "cancel", isExecuting })
  // Nobody has the run: what its call has come to is found out by whoever takes it now.
  if (isExecuting && isQuarantined(run)) change.wake()
  return change
}

/** Has a run go on that was set aside. */
export function releaseRun(snapshot: Snapshot): Change {
  const { run } = snapshot
  if (!isQuarantined(run)) {
    throw illegalTransition("run", run.state, "running", nextRunStates(run.state))
  }
  const change = new Change(snapshot)
  change.moveRun({ kind: "resume" })
  change.wake()
  return change
}

/** One person's answer. Undefined where the same person has said the same before. */
export function answerApproval(
  snapshot: Snapshot,
  approval: ApprovalRecord,
  digest: string,
  given: GivenAnswer,
): Change | undefined {
  const { approvalId, answers } = approval
  const weighed = weighAnswer(approval, given)
  const rule = weighed.kind === "forbidden" ? weighed.rule : undefined
  if (rule !== undefined && rule !== "already_answered") throw notAllowed(approvalId, rule)
  if (digest !== approval.digest) {
    throw new RunwardenError("APPROVAL_CONTENT_CHANGED", { approval_id: approvalId })
  }
  if (hasAnswered(answers, given)) return undefined
  const isLate = snapshot.clock.now() >= approval.expireTime.getTime()
  if (approval.state !== "pending" || isLate) {
    const state = approval.state === "pending" ? "expired" : approval.state
    throw new RunwardenError("APPROVAL_NOT_PENDING", { approval_id: approvalId, state })
  }
  if (weighed.kind !== "counted") throw notAllowed(approvalId, rule ?? "already_answered")
  const change = new Change(snapshot)
  change.answer(approval, given)
  decide(change, approval, given, weighed.decision)
  return change
}

/** Who answers is not who is asked. */
export function notAllowed(approvalId: string, rule: Forbidden): RunwardenError {
  return new RunwardenError("APPROVER_NOT_ALLOWED", { approval_id: approvalId, rule })
}

function decide(
  change: Change,
  approval: ApprovalRecord,
  { actorId: deciderId, comment }: GivenAnswer,
  decision: GivenAnswer["answer"] | undefined,
): void {
  switch (decision) {
    case "approve":
      change.moveApproval(approval, "approve", { deciderId, comment })
      change.moveCall(approval.stepIndex, "approve")
      change.wake()
      return
    case "reject":
      change.moveApproval(approval, "reject", { deciderId, comment })
      change.moveCall(approval.stepIndex, "reject", { reason: "approval_rejected" })
      change.moveRun({ kind: "fail", reason: "approval_rejected" })
      return
    case undefined:
      return
  }
}

/** What was found out about a call. */
export type SettledOutcome =
  | { readonly kind: "result"; readonly result: NonNullable<ToolCallRecord["result"]> }
  | { readonly kind: "error"; readonly error: ToolFailure }

/** What became of a call whose outcome was unknown. */
export function settleToolCall(
  snapshot: Snapshot,
  call: ToolCallRecord,
  outcome: SettledOutcome,
  caller: Caller,
): Change {
  const requested = outcome.kind === "result" ? "succeeded" : "failed"
  if (call.state !== "outcome_unknown") {
    throw illegalTransition("tool_call", call.state, requested, nextToolCallStates(call.state))
  }
  const change = new Change(snapshot)
  const settled =
    outcome.kind === "result"
      ? { result: outcome.result, settlerId: caller.actorId }
      : { error: outcome.error, reason: "tool_failed", settlerId: caller.actorId }
  const event = outcome.kind === "result" ? "settle_succeeded" : "settle_failed"
  change.moveCall(call.stepIndex, event, settled)
  if (outcome.kind === "result") change.countResult(JSON.stringify(outcome.result))
  if (waitsFor(snapshot, call)) change.wake()
  return change
}

function waitsFor({ run }: Snapshot, call: ToolCallRecord): boolean {
  return run.state === "requires_action" && run.stepIndex === call.stepIndex
}
