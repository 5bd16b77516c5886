import type { JsonObject } from "@bufbuild/protobuf"
import type { Subject } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import type { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { Caller } from "../../mesh/identity.ts"
import type { JudgeInput } from "./policy.ts"
import { effectName, riskName, roleName, subjectName } from "./rule-message.ts"

/** What Moderate and TestPolicyVersion have in common. */
export interface JudgeRequest {
  readonly subject: Subject
  readonly content?: JsonObject | undefined
  readonly tool: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly history?: readonly string[]
  readonly provenance?: readonly string[]
}

/** A request as the judge takes it. Throws INVALID_REQUEST for a subject that is not known. */
export function toJudgeInput(request: JudgeRequest, caller: Caller): JudgeInput {
  const subject = subjectName(request.subject)
  if (subject === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "subject" })
  if (request.content === undefined)
    throw new RunwardenError("INVALID_REQUEST", { field: "content" })
  return {
    subject,
    tool: request.tool,
    content: request.content,
    actor: { id: caller.actorId, role: roleName(caller.role) },
    risk: riskName(request.riskClass),
    effect: effectName(request.effect),
    history: request.history ?? [],
    provenance: request.provenance ?? [],
  }
}
