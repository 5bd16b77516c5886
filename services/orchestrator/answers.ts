/** What people do to a run: cancel it, answer its approval, settle its call. One transaction each. */
import type { Tx } from "../../mesh/database.ts"
import { illegalTransition, notFound, RunwardenError } from "../../mesh/errors.ts"
import type { Caller } from "../../mesh/identity.ts"
import { forbiddenBy } from "./approval.ts"
import { findApproval } from "./approval-store.ts"
import { Change } from "./change.ts"
import { storeChange } from "./change-store.ts"
import { isTerminalRun, nextRunStates } from "./run.ts"
import { etagOf } from "./run-message.ts"
import type {
  ApprovalRecord,
  RunRecord,
  Snapshot,
  ToolCallRecord,
  ToolFailure,
} from "./snapshot.ts"
import { lockSnapshot } from "./snapshot-store.ts"
import { nextToolCallStates } from "./tool-call.ts"
import { findToolCall } from "./tool-call-store.ts"

/** What was stored; no change where there was nothing to do. */
export interface Answered<Resource> {
  readonly resource: Resource
  readonly change: Change | undefined
}

/** Ends a run: no call of it starts once this is committed. */
export async function cancelRun(
  tx: Tx,
  request: { readonly workspaceId: string; readonly runId: string; readonly etag: string },
): Promise<Answered<RunRecord>> {
  const { workspaceId, runId, etag } = request
  const snapshot = await lockSnapshot(tx, workspaceId, runId)
  if (snapshot === undefined) throw notFound("run", runId)
  const { run, calls } = snapshot
  if (etag !== "" && etag !== etagOf(run)) {
    throw new RunwardenError("ETAG_MISMATCH", { resource: "run", id: runId })
  }
  if (run.state === "cancelled" || run.state === "cancelling") {
    return { resource: run, change: undefined }
  }
  if (isTerminalRun(run.state)) {
    throw illegalTransition("run", run.state, "cancelled", nextRunStates(run.state))
  }
  const change = new Change(snapshot)
  const isExecuting = calls[run.stepIndex]?.state === "executing"
  change.moveRun({ kind: "cancel", isExecuting })
  await storeChange(tx, change)
  return { resource: change.after().run, change }
}

/** Records one person's answer. The same answer once more by the same person changes nothing. */
export async function decideApproval(
  tx: Tx,
  request: {
    readonly workspaceId: string
    readonly approvalId: string
    readonly digest: string
    readonly answer: "approve" | "reject"
    readonly comment: string
  },
  caller: Caller,
): Promise<Answered<ApprovalRecord>> {
  const { workspaceId, approvalId, answer, comment } = request
  const asked = await findApproval(tx, workspaceId, approvalId)
  if (asked === undefined) throw notFound("approval", approvalId)
  // The run's row is what serialises everything about the run; the approval is read again under it.
  const snapshot = await lockSnapshot(tx, workspaceId, asked.runId)
  const approval = await findApproval(tx, workspaceId, approvalId)
  if (snapshot === undefined || approval === undefined) throw notFound("approval", approvalId)
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
  if (approval.state === given && approval.deciderId === caller.actorId) {
    return { resource: approval, change: undefined }
  }
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
  await storeChange(tx, change)
  const [decided] = change.approvals
  return { resource: decided ?? approval, change }
}

/** Records what became of a call whose outcome was unknown. */
export async function settleToolCall(
  tx: Tx,
  request: {
    readonly workspaceId: string
    readonly toolCallId: string
    readonly outcome:
      | { readonly kind: "result"; readonly result: NonNullable<ToolCallRecord["result"]> }
      | { readonly kind: "error"; readonly error: ToolFailure }
  },
  caller: Caller,
): Promise<Answered<ToolCallRecord>> {
  const { workspaceId, toolCallId, outcome } = request
  const found = await findToolCall(tx, workspaceId, toolCallId)
  const snapshot =
    found === undefined ? undefined : await lockSnapshot(tx, workspaceId, found.runId)
  const call = snapshot?.calls[found?.stepIndex ?? -1]
  if (snapshot === undefined || call === undefined) throw notFound("tool_call", toolCallId)
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
  await storeChange(tx, change)
  return { resource: change.call(call.stepIndex), change }
}

function waitsFor({ run }: Snapshot, call: ToolCallRecord): boolean {
  return run.state === "requires_action" && run.stepIndex === call.stepIndex
}
