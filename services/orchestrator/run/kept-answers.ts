/**
 * The forms in which answers are kept: large things are stored where they belong, and once. What is
 * left out here never changes after the answer, so that a repeat is told the same.
 */
import type { Approval } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import type { Run } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import type { ToolCall } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { notFound } from "../../../mesh/errors.ts"
import { argumentsOf, previewOf } from "../approval/approval.ts"
import { findApproval } from "../approval/approval-store.ts"
import type { KeptForm } from "./answered-change.ts"
import { toPlan } from "./run-message.ts"
import { findRun } from "./run-store.ts"
import { toToolCall } from "./tool-call-message.ts"
import { findToolCall } from "./tool-call-store.ts"

/** An answer with a run: its plan stands with its calls. */
export const keptRun: KeptForm<{ run?: Run | undefined }> = {
  reduce(copy) {
    if (copy.run === undefined) return
    const { plan: _, ...run } = copy.run
    copy.run = run
  },
  async restore(tx, { run }) {
    if (run === undefined) return
    const found = await findRun(tx, run.workspaceId, run.runId)
    if (found === undefined) throw notFound("run", run.runId)
    run.plan = toPlan(found)
  },
}

/** An answer with a call that was settled: its arguments and its outcome are the call's own. */
export const keptCall: KeptForm<{ toolCall?: ToolCall | undefined }> = {
  reduce(copy) {
    if (copy.toolCall === undefined) return
    const { arguments: _, ...call } = copy.toolCall
    copy.toolCall = { ...call, outcome: { case: undefined } }
  },
  async restore(tx, { toolCall }) {
    if (toolCall === undefined) return
    const { workspaceId, toolCallId } = toolCall
    const found = await findToolCall(tx, workspaceId, toolCallId)
    if (found === undefined) throw notFound("tool_call", toolCallId)
    // Whoever settled it said what it came to, whatever moderation has made of that since.
    const { arguments: args, outcome } = toToolCall({ ...found, isWithheld: false })
    toolCall.outcome = outcome
    if (args !== undefined) toolCall.arguments = args
  },
}

/** An answer with an approval: what was asked is in its binding. */
export const keptApproval: KeptForm<{ approval?: Approval | undefined }> = {
  reduce(copy) {
    if (copy.approval === undefined) return
    const { arguments: _, ...approval } = copy.approval
    copy.approval = { ...approval, preview: "" }
  },
  async restore(tx, { approval }) {
    if (approval === undefined) return
    const { workspaceId, approvalId } = approval
    const found = await findApproval(tx, workspaceId, approvalId)
    if (found === undefined) throw notFound("approval", approvalId)
    approval.arguments = argumentsOf(found.binding)
    approval.preview = previewOf(found.binding)
  },
}
