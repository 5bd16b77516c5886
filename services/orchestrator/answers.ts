/** What people do to a run: cancel it, answer its approval, settle its call. Decided without I/O. */
import { illegalTransition, RunwardenError } from "../../mesh/errors.ts"
import type { Caller } from "../../mesh/identity.ts"
import { forbiddenBy } from "./approval.ts"
import { Change } from "./change.ts"
import { isTerminalRun, nextRunStates } from "./run.ts"
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
  return change
}

/** One person's answer. Undefined for the same answer once more by the same person. */
export function decideApproval(
  snapshot: Snapshot,
  approval: ApprovalRecord,
  request: {
    readonly digest: string
    readonly answer: "approve" | "reject"
    readonly comment: string
  },
  caller: Caller,
): Change | undefined {
  const { answer, comment } = request
  const { approvalId } = approval
  const rule = {
    role: approval.approverRole,
    isDistinctFromRequester: approval.isDistinctFromRequester,
  }
  const forbidden = forbiddenBy(rule, approval.requesterId, caller)
  if (forbidden !== undefined) {
    throw new RunwardenError("APPROVER_NOT_ALLOWED", { approval_id: approvalId, rule: forbidden })
  }
  if (request.digest !== approval.digest) {
    throw new RunwardenError("APPROVAL_CONTENT_CHANGED", { approval_id: approvalId })
  }
  const given = answer === "approve" ? "approved" : "rejected"
  if (approval.state === given && approval.deciderId === caller.actorId) return undefined
  const isLate = snapshot.clock.now() >= approval.expireTime.getTime()
  if (approval.state !== "pending" || isLate) {
    const state = approval.state === "pending" ? "expired" : approval.state
    throw new RunwardenError("APPROVAL_NOT_PENDING", { approval_id: approvalId, state })
  }
  const change = new Change(snapshot)
  change.moveApproval(approval, answer, { deciderId: caller.actorId, comment })
  if (answer === "approve") {
    change.moveCall(approval.stepIndex, "approve")
    change.wake()
  } else {
    change.moveCall(approval.stepIndex, "reject", { reason: "approval_rejected" })
    change.moveRun({ kind: "fail", reason: "approval_rejected" })
  }
  return change
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
  if (waitsFor(snapshot, call)) change.wake()
  return change
}

function waitsFor({ run }: Snapshot, call: ToolCallRecord): boolean {
  return run.state === "requires_action" && run.stepIndex === call.stepIndex
}
