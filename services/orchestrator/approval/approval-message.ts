import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import {
  type Approval,
  ApprovalAnswerSchema,
  ApprovalSchema,
} from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import type { ApprovalRecord } from "../run/snapshot.ts"
import { approvalStateEnum, effectEnum, riskClassEnum, verdictEnum } from "../state-enum.ts"
import { argumentsOf, previewOf } from "./approval.ts"
import type { StoredAnswer } from "./approval-answer.ts"

/** An approval as the contract shows it: arguments and preview are made of what the digest covers. */
export function toApproval(approval: ApprovalRecord, view: "whole" | "listed" = "whole"): Approval {
  const { rule } = approval
  return create(ApprovalSchema, {
    workspaceId: approval.workspaceId,
    approvalId: approval.approvalId,
    runId: approval.runId,
    toolCallId: approval.toolCallId,
    stepIndex: approval.stepIndex,
    tool: approval.tool,
    toolVersion: approval.toolVersion,
    definitionDigest: approval.definitionDigest,
    riskClass: riskClassEnum[approval.riskClass],
    effect: effectEnum[approval.effect],
    title: approval.title,
    verdict: verdictEnum[approval.verdict],
    policyVersion: approval.policyVersion,
    matchedRules: [...approval.matchedRules],
    requesterId: approval.requesterId,
    digest: approval.digest,
    state: approvalStateEnum[approval.state],
    ruleVersion: rule.ruleVersion,
    ruleId: rule.ruleId,
    approverRole: rule.approverRole as Role,
    distinctFromRequester: rule.isDistinctFromRequester,
    quorum: rule.quorum,
    delegationAllowed: rule.allowsDelegation,
    breakGlassAllowed: rule.allowsBreakGlass,
    approveCount: approval.approveCount,
    breakGlass: approval.isGlassBroken,
    deciderId: approval.deciderId,
    comment: approval.comment,
    expireTime: timestampFromDate(approval.expireTime),
    createTime: timestampFromDate(approval.createTime),
    ...(view === "listed"
      ? {}
      : {
          arguments: argumentsOf(approval.binding),
          preview: previewOf(approval.binding),
          answers: approval.answers.map(toAnswer),
        }),
    ...(approval.decideTime === undefined
      ? {}
      : { decideTime: timestampFromDate(approval.decideTime) }),
    ...(approval.consumeTime === undefined
      ? {}
      : { consumeTime: timestampFromDate(approval.consumeTime) }),
  })
}

function toAnswer(answer: StoredAnswer) {
  return create(ApprovalAnswerSchema, {
    actorId: answer.actorId,
    role: answer.role as Role,
    approved: answer.answer === "approve",
    comment: answer.comment,
    delegationId: answer.delegation?.delegationId ?? "",
    delegatorId: answer.delegation?.delegatorId ?? "",
    breakGlassReason: answer.breakGlassReason ?? "",
    createTime: timestampFromDate(answer.createTime),
  })
}
