import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import { type Approval, ApprovalSchema } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import type { ApprovalRecord } from "./snapshot.ts"
import { approvalStateEnum, riskClassEnum, verdictEnum } from "./state-enum.ts"

/** An approval as the contract shows it: the arguments are those that the digest covers. */
export function toApproval(approval: ApprovalRecord, view: "whole" | "listed" = "whole"): Approval {
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
    title: approval.title,
    verdict: verdictEnum[approval.verdict],
    policyVersion: approval.policyVersion,
    matchedRules: [...approval.matchedRules],
    requesterId: approval.requesterId,
    digest: approval.digest,
    state: approvalStateEnum[approval.state],
    approverRole: approval.approverRole as never,
    distinctFromRequester: approval.isDistinctFromRequester,
    deciderId: approval.deciderId,
    comment: approval.comment,
    expireTime: timestampFromDate(approval.expireTime),
    createTime: timestampFromDate(approval.createTime),
    ...(view === "listed" ? {} : { arguments: approval.arguments }),
    ...(approval.decideTime === undefined
      ? {}
      : { decideTime: timestampFromDate(approval.decideTime) }),
    ...(approval.consumeTime === undefined
      ? {}
      : { consumeTime: timestampFromDate(approval.consumeTime) }),
  })
}
