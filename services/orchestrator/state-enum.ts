import { Subject, Verdict as VerdictEnum } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import { ApprovalState as ApprovalEnum } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { RunState as RunEnum } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState as ToolCallEnum } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import {
  Effect as EffectEnum,
  RiskClass as RiskEnum,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import type { Effect, RiskClass, Verdict } from "./action.ts"
import type { ApprovalState } from "./approval/approval.ts"
import type { RunState } from "./run/run.ts"
import type { ToolCallState } from "./run/tool-call.ts"

/** The service's own words as the contract's numbers, and back. */
export const runStateEnum: Readonly<Record<RunState, RunEnum>> = {
  queued: RunEnum.QUEUED,
  running: RunEnum.RUNNING,
  requires_action: RunEnum.REQUIRES_ACTION,
  cancelling: RunEnum.CANCELLING,
  succeeded: RunEnum.SUCCEEDED,
  failed: RunEnum.FAILED,
  cancelled: RunEnum.CANCELLED,
  expired: RunEnum.EXPIRED,
}

export const toolCallStateEnum: Readonly<Record<ToolCallState, ToolCallEnum>> = {
  proposed: ToolCallEnum.PROPOSED,
  moderating: ToolCallEnum.MODERATING,
  awaiting_approval: ToolCallEnum.AWAITING_APPROVAL,
  ready: ToolCallEnum.READY,
  executing: ToolCallEnum.EXECUTING,
  outcome_unknown: ToolCallEnum.OUTCOME_UNKNOWN,
  succeeded: ToolCallEnum.SUCCEEDED,
  failed: ToolCallEnum.FAILED,
  denied: ToolCallEnum.DENIED,
  expired: ToolCallEnum.EXPIRED,
  cancelled: ToolCallEnum.CANCELLED,
}

export const approvalStateEnum: Readonly<Record<ApprovalState, ApprovalEnum>> = {
  pending: ApprovalEnum.PENDING,
  approved: ApprovalEnum.APPROVED,
  rejected: ApprovalEnum.REJECTED,
  expired: ApprovalEnum.EXPIRED,
  cancelled: ApprovalEnum.CANCELLED,
  superseded: ApprovalEnum.SUPERSEDED,
}

export const verdictEnum: Readonly<Record<Verdict, VerdictEnum>> = {
  allowed: VerdictEnum.ALLOWED,
  flagged: VerdictEnum.FLAGGED,
  blocked: VerdictEnum.BLOCKED,
}

export type SubjectName = "run_input" | "tool_arguments" | "tool_result"

export const subjectEnum: Readonly<Record<SubjectName, Subject>> = {
  run_input: Subject.RUN_INPUT,
  tool_arguments: Subject.TOOL_ARGUMENTS,
  tool_result: Subject.TOOL_RESULT,
}

export const riskClassEnum: Readonly<Record<RiskClass, RiskEnum>> = {
  low: RiskEnum.LOW,
  medium: RiskEnum.MEDIUM,
  high: RiskEnum.HIGH,
}

export const effectEnum: Readonly<Record<Effect, EffectEnum>> = {
  read: EffectEnum.READ,
  keyed: EffectEnum.KEYED,
  unsafe: EffectEnum.UNSAFE,
}

/** Anything but a declared class is the riskiest. */
export function toRiskClass(value: RiskEnum): RiskClass {
  return wordOf(riskClassEnum, value) ?? "high"
}

/** Anything but a declared effect is the most delicate. */
export function toEffect(value: EffectEnum): Effect {
  return wordOf(effectEnum, value) ?? "unsafe"
}

/** The word of a number; undefined for one that this service does not know. */
export function wordOf<Word extends string>(
  words: Readonly<Record<Word, number>>,
  value: number,
): Word | undefined {
  return (Object.keys(words) as Word[]).find((word) => words[word] === value)
}
