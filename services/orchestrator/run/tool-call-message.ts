import { create } from "@bufbuild/protobuf"
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt"
import {
  type ToolCall,
  ToolCallSchema,
} from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { effectEnum, riskClassEnum, toolCallStateEnum, verdictEnum } from "../state-enum.ts"
import { etagOf, toDenial } from "./run-message.ts"
import type { ToolCallRecord } from "./snapshot.ts"

/** A call as the contract shows it. A result that moderation withholds stays out. */
export function toToolCall(call: ToolCallRecord, view: "whole" | "listed" = "whole"): ToolCall {
  return create(ToolCallSchema, {
    workspaceId: call.workspaceId,
    toolCallId: call.toolCallId,
    runId: call.runId,
    stepIndex: call.stepIndex,
    idempotencyKey: call.idempotencyKey,
    tool: call.tool,
    toolVersion: call.toolVersion,
    definitionDigest: call.definitionDigest,
    riskClass: riskClassEnum[call.riskClass],
    effect: effectEnum[call.effect],
    title: call.title,
    state: toolCallStateEnum[call.state],
    reason: call.reason,
    argumentsDigest: call.argumentsDigest ?? "",
    provenance: [...call.provenance],
    decisionId: call.decisionId,
    policyVersion: call.policyVersion,
    matchedRules: [...call.matchedRules],
    approvalId: call.approvalId ?? "",
    attempts: call.attempts,
    settlerId: call.settlerId,
    traceId: call.traceId,
    etag: etagOf(call),
    createTime: timestampFromDate(call.createTime),
    updateTime: timestampFromDate(call.updateTime),
    ...(view === "listed"
      ? {}
      : { arguments: call.arguments ?? call.plannedArguments, outcome: outcomeOf(call) }),
    ...(call.policyDenial === undefined ? {} : { policyDenial: toDenial(call.policyDenial) }),
    ...(call.verdict === undefined ? {} : { verdict: verdictEnum[call.verdict] }),
    ...(call.moderationOutcome === undefined
      ? {}
      : { moderationOutcome: verdictEnum[call.moderationOutcome] }),
    ...(call.timeoutMs === undefined ? {} : { timeout: durationFromMs(call.timeoutMs) }),
    ...(call.maxUsage === undefined
      ? {}
      : {
          maxTokens: BigInt(call.maxUsage.tokens),
          maxCostMicros: BigInt(call.maxUsage.costMicros),
        }),
    ...(call.startTime === undefined ? {} : { startTime: timestampFromDate(call.startTime) }),
    ...(call.endTime === undefined ? {} : { endTime: timestampFromDate(call.endTime) }),
  })
}

function outcomeOf({ isWithheld, result, error }: ToolCallRecord) {
  if (isWithheld) return { case: undefined }
  if (result !== undefined) return { case: "result" as const, value: result }
  if (error === undefined) return { case: undefined }
  return { case: "error" as const, value: { ...error, metadata: { ...error.metadata } } }
}
