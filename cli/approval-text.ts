/** What a person sees before an answer, and that the digest covers exactly that. */
import { timestampMs } from "@bufbuild/protobuf/wkt"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import { type Approval, ApprovalState } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { digestOf } from "../mesh/canonical.ts"
import { describeApproval } from "../mesh/outcomes.ts"
import { visibleJson } from "../mesh/visible-text.ts"
import { enumText } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import type { Output } from "./output.ts"
import { timeText } from "./time-text.ts"

/** Shows exactly what would run. */
export function tellApproval(out: Output, approval: Approval): void {
  const now = out.io.now()
  const isPending = approval.state === ApprovalState.PENDING
  const rule = enumText(RoleSchema, approval.approverRole)
  out.details([
    ["approval", approval.approvalId],
    ["state", describeApproval(approval).label],
    ["title", approval.title],
    ["tool", `${approval.tool}@${approval.toolVersion}`],
    ["risk", enumText(RiskClassSchema, approval.riskClass)],
    ["verdict", `${enumText(VerdictSchema, approval.verdict)} by ${approval.policyVersion}`],
    ["rules", approval.matchedRules.join(", ")],
    ["run", `${approval.runId}, step ${approval.stepIndex}`],
    ["requester", approval.requesterId],
    ["may answer", approval.distinctFromRequester ? `${rule}, not the requester` : rule],
    ["asked", timeText(approval.createTime, now)],
    ["expires", isPending ? timeText(approval.expireTime, now) : ""],
    ["answered by", approval.deciderId],
    ["answered", timeText(approval.decideTime, now)],
    ["comment", approval.comment],
    ["used", timeText(approval.consumeTime, now)],
    ["definition", approval.definitionDigest],
    ["digest", approval.digest],
  ])
  out.line()
  out.heading("Arguments")
  out.line(visibleJson(approval.arguments ?? {}))
}

/** Throws where the digest is not that of what was shown. */
export function checkDigest(approval: Approval): void {
  const { arguments: args, expireTime } = approval
  const covered =
    args !== undefined &&
    expireTime !== undefined &&
    digestOf({
      workspace: approval.workspaceId,
      run: approval.runId,
      step: approval.stepIndex,
      tool: approval.tool,
      definition_digest: approval.definitionDigest,
      arguments: args,
      policy_version: approval.policyVersion,
      verdict: enumText(VerdictSchema, approval.verdict),
      requester: approval.requesterId,
      expiry: new Date(timestampMs(expireTime)).toISOString(),
    })
  if (covered === approval.digest) return
  throw new CliError(
    "The digest of this approval is not that of what is shown: it is not confirmed.",
    {
      reason: "digest_mismatch",
      next: "Do not confirm it. Update this program; if that does not help, tell the operator.",
      metadata: { digest: approval.digest, shown: covered === false ? "" : covered },
    },
  )
}
