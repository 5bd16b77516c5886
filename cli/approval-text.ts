/** What a person sees before an answer, and that the digest covers exactly that. */
import type { JsonValue } from "@bufbuild/protobuf"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import {
  type Approval,
  type ApprovalAnswer,
  ApprovalState,
} from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { digestOf } from "../mesh/canonical.ts"
import { describeApproval } from "../mesh/outcomes.ts"
import { shortened } from "../mesh/visible-text.ts"
import type { Context } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import type { Output } from "./output.ts"
import { ageOf, timeText } from "./time-text.ts"

/** Shows the question as the server wrote it, and how it stands. */
export function tellApproval(out: Output, approval: Approval): void {
  const now = out.io.now()
  const isPending = approval.state === ApprovalState.PENDING
  const { quorum, approveCount } = approval
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
    ["may answer", whoText(approval)],
    ["said yes", isPending && quorum > 1 ? `${approveCount} of ${quorum}` : ""],
    ["asked", timeText(approval.createTime, now)],
    ["expires", isPending ? timeText(approval.expireTime, now) : ""],
    ["decided", timeText(approval.decideTime, now)],
    ["used", timeText(approval.consumeTime, now)],
    ["digest", approval.digest],
  ])
  for (const answer of approval.answers) {
    const [label, text] = answerText(answer)
    out.details([[label, `${text}, ${timeText(answer.createTime, now)}`]])
  }
  out.line()
  out.heading("What would run")
  out.line(approval.preview)
}

/** Approvals below each other, with what somebody who answers many looks at. */
export const approvalColumns = {
  head: ["APPROVAL", "TOOL", "RISK", "ARGUMENTS", "REQUESTER", "RUN", "DIGEST", "EXPIRES"],
  row: (approval: Approval, now: Date): readonly string[] => [
    approval.approvalId,
    `${approval.tool}@${approval.toolVersion}`,
    enumText(RiskClassSchema, approval.riskClass),
    shortened(JSON.stringify(approval.arguments ?? {}), 64),
    approval.requesterId,
    approval.runId,
    approval.digest.slice(0, 12),
    approval.state === ApprovalState.PENDING
      ? ageOf(approval.expireTime, now)
      : describeApproval(approval).label,
  ],
} as const

export function tellApprovals(out: Output, approvals: readonly Approval[]): void {
  const now = out.io.now()
  const rows = approvals.map((approval) => approvalColumns.row(approval, now))
  out.table(approvalColumns.head, rows, "None of them can be answered.")
}

/** Reads one approval with all that belongs to it. */
export async function readApproval(context: Context, approvalId: string): Promise<Approval> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const request = { workspaceId, approvalId }
  const { approval } = await session.client(ApprovalService).getApproval(request, session.options)
  if (approval === undefined) throw new CliError("The approval was not given back.")
  return approval
}

/** Throws where the digest is not that of what was shown. */
export function checkDigest(approval: Approval): void {
  const shown = digestOfPreview(approval.preview)
  if (shown === approval.digest && shown !== "") return
  throw new CliError(
    "The digest of this approval is not that of what is shown: it is not confirmed.",
    {
      reason: "digest_mismatch",
      next: "Do not confirm it. Update this program; if that does not help, tell the operator.",
      metadata: { digest: approval.digest, shown },
    },
  )
}

/** Empty where the preview is none. */
function digestOfPreview(preview: string): string {
  try {
    return digestOf(JSON.parse(preview) as JsonValue)
  } catch {
    return ""
  }
}

function whoText(approval: Approval): string {
  const parts = [
    `${approval.quorum} × ${enumText(RoleSchema, approval.approverRole)}`,
    approval.distinctFromRequester ? "not the requester" : "",
    approval.delegationAllowed ? "delegates too" : "",
    approval.breakGlassAllowed ? "an admin alone by break-glass" : "",
    `rule ${approval.ruleId} of ${approval.ruleVersion}`,
  ]
  return parts.filter((part) => part !== "").join(", ")
}

function answerText(answer: ApprovalAnswer): readonly [string, string] {
  const { actorId, delegatorId, comment, breakGlassReason } = answer
  const who = delegatorId === "" ? actorId : `${actorId} for ${delegatorId}`
  if (breakGlassReason !== "") return ["broke the glass", `${who}: ${breakGlassReason}`]
  return [answer.approved ? "yes" : "no", comment === "" ? who : `${who}: ${comment}`]
}
