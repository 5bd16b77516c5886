/** Runs and their histories as a person reads them. */
import { timestampDate } from "@bufbuild/protobuf/wkt"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { ApprovalState, ApprovalStateSchema } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { RunEvent } from "../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { type Run, RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type GetRunResponse, RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type ToolCall, ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { describeRun, describeToolCall, type Outcome } from "../mesh/outcomes.ts"
import { shortened } from "../mesh/visible-text.ts"
import type { Context } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { exitCodeOf } from "./exit-code.ts"
import { CliError } from "./failure.ts"
import type { Output } from "./output.ts"
import { stepText, usageDetails } from "./run-usage.ts"
import type { Session } from "./session.ts"
import { localTime, timeText } from "./time-text.ts"

/** One entry of a history on one line; undefined for what only clutters. */
export function tellEvent(out: Output, event: RunEvent, isComplete: boolean): void {
  const { kind } = event
  const time = isComplete && event.time ? `${localTime(timestampDate(event.time))}  ` : ""
  switch (kind.case) {
    case "runStarted":
      if (isComplete) out.marked("neutral", `${time}run started: ${kind.value.planName}`)
      return
    case "runStateChanged": {
      const outcome = describeRun(kind.value)
      if (isComplete) out.marked(outcome.tone, `${time}run: ${outcome.label}`)
      return
    }
    case "toolCallStateChanged": {
      const { stepIndex, tool } = kind.value
      const outcome = describeToolCall(kind.value)
      if (isComplete || outcome.tone !== "progress") {
        out.marked(outcome.tone, `${time}step ${stepIndex}  ${tool}: ${outcome.label}`)
      }
      return
    }
    case "contentModerated": {
      if (!isComplete) return
      const { verdict, stepIndex, failure } = kind.value
      const where = stepIndex === undefined ? "input" : `step ${stepIndex}`
      const why = failure === "" ? "" : ` (${failure})`
      out.marked("neutral", `${time}${where}  verdict ${enumText(VerdictSchema, verdict)}${why}`)
      return
    }
    case "approvalStateChanged": {
      if (!isComplete) return
      const { approvalId, stepIndex, state } = kind.value
      const name = enumText(ApprovalStateSchema, state)
      out.marked("neutral", `${time}step ${stepIndex}  approval ${approvalId} ${name}`)
      return
    }
    case "budgetWarned": {
      const { budget, used, limit } = kind.value
      out.marked("attention", `${time}budget ${budget}: ${used} of ${limit} used`)
      return
    }
    default:
      if (isComplete) out.marked("neutral", `${time}an entry that this program does not know`)
  }
}

/** The run as it is now: told, by the exit code too, and given back as it was read. */
export async function concludeRun(context: Context, runId: string): Promise<GetRunResponse> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session.client(RunService).getRun({ workspaceId, runId }, session.options)
  if (response.run === undefined) throw new CliError("The run was not given back.")
  await tellOutcome(context.out, session, response.run)
  context.exitWith(exitCodeOf(response.run))
  return response
}

/** The end, or the rest, of a run: what it means, why, and what to do about it. */
async function tellOutcome(out: Output, session: Session, run: Run): Promise<void> {
  if (out.isJson || out.isQuiet) return
  const outcome = describeRun(run)
  out.line()
  out.marked(outcome.tone, `${outcome.label}: ${outcome.explanation}`)
  tellDenial(out, run)
  if (run.state === RunState.FAILED) await tellFailedCall(out, session, run)
  if (run.state === RunState.REQUIRES_ACTION) await tellWhatWaits(out, session, run)
  else if (outcome.next !== undefined) out.note(outcome.next)
}

/** The details of a run. */
export function tellRun(out: Output, run: Run): void {
  const now = out.io.now()
  const outcome = describeRun(run)
  out.details([
    ["run", run.runId],
    ["plan", run.planName],
    ["state", stateText(outcome, run.reason)],
    ["requester", run.requesterId],
    ["thread", run.threadId],
    ["step", stepText(run)],
    ...usageDetails(run),
    ["verdict", run.moderationOutcome === 0 ? "" : enumText(VerdictSchema, run.moderationOutcome)],
    ["input", run.input],
    ["started", timeText(run.createTime, now)],
    ["begins", timeText(run.startTime, now)],
    ["ended", timeText(run.endTime, now)],
    ["deadline", run.endTime === undefined ? timeText(run.deadline, now) : ""],
    ["trace", run.traceId],
    ["request", run.requestId],
  ])
}

/** The calls of a run, one row each. */
export function tellCalls(out: Output, calls: readonly ToolCall[]): void {
  out.table(
    ["TOOL CALL", "STEP", "TOOL", "STATE", "TITLE"],
    calls.map((call) => [
      call.toolCallId,
      String(call.stepIndex),
      `${call.tool}@${call.toolVersion}`,
      describeToolCall(call).label,
      shortened(call.title, 60),
    ]),
    "No calls.",
  )
}

/** Label and reason: `failed (tool_failed)`. */
export function stateText({ label }: Outcome, reason: string): string {
  return reason === "" ? label : `${label} (${reason})`
}

export function tellDenial(out: Output, { policyDenial: denial }: Pick<Run, "policyDenial">): void {
  if (denial === undefined) return
  out.details([
    ["policy", denial.policyVersion],
    ["categories", denial.categories.join(", ")],
    ["rules", denial.matchedRules.join(", ")],
    ["decision", denial.decisionId],
    ["no verdict", denial.failure],
  ])
}

/** The command that confirms, as somebody who may. */
export function confirmCommand(session: Session, approvalId: string): string {
  const as = session.target.isLocal ? "--as approver " : ""
  return `npx runwarden ${as}approval confirm ${approvalId}`
}

async function tellFailedCall(out: Output, session: Session, run: Run): Promise<void> {
  const { workspaceId, runId } = run
  const calls = session.client(ToolCallService)
  const states = [ToolCallState.FAILED, ToolCallState.DENIED, ToolCallState.OUTCOME_UNKNOWN]
  const { toolCalls } = await calls.listToolCalls({ workspaceId, runId, states }, session.options)
  const last = toolCalls.at(-1)
  if (last === undefined) return
  const { toolCallId } = last
  const { toolCall } = await calls.getToolCall({ workspaceId, toolCallId }, session.options)
  const error = toolCall?.outcome.case === "error" ? toolCall.outcome.value : undefined
  out.details([
    ["step", `${last.stepIndex}  ${last.tool}@${last.toolVersion}`],
    ["call", last.toolCallId],
    ["reason", error?.reason ?? last.reason],
    ["message", error?.message],
  ])
}

async function tellWhatWaits(out: Output, session: Session, run: Run): Promise<void> {
  const { workspaceId, runId } = run
  if (run.reason === "outcome_unknown") {
    const calls = session.client(ToolCallService)
    const states = [ToolCallState.OUTCOME_UNKNOWN]
    const { toolCalls } = await calls.listToolCalls({ workspaceId, runId, states }, session.options)
    for (const { toolCallId, tool } of toolCalls) {
      out.line(`\nFind out what ${tool} did, and settle the call:\n`)
      out.line(`  npx runwarden tool-call settle ${toolCallId} --result '{…}'`)
      out.line(`  npx runwarden tool-call settle ${toolCallId} --not-done "why"\n`)
    }
    return
  }
  if (run.reason === "quarantined") {
    out.line("\nReplicas crashed over it. Once you know why, have it go on, or end it:\n")
    out.line(`  npx runwarden run release ${runId}`)
    out.line(`  npx runwarden run cancel ${runId}\n`)
    return
  }
  const approvals = session.client(ApprovalService)
  const states = [ApprovalState.PENDING]
  const found = await approvals.listApprovals({ workspaceId, runId, states }, session.options)
  for (const { approvalId, tool, expireTime } of found.approvals) {
    const until = timeText(expireTime, out.io.now())
    out.line(`\n${tool} waits for somebody to confirm it, until ${until}:\n`)
    out.line(`  ${confirmCommand(session, approvalId)}\n`)
  }
}
