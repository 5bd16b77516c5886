import type { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import type { Handlers } from "../../mesh/service.ts"
import type { DecisionLog } from "./decision-log.ts"
import { toDecision, toNewDecision } from "./decision-message.ts"
import { type Evaluation, evaluate } from "./evaluation.ts"
import { toJudgeInput } from "./judge-input.ts"
import type { JudgeInput } from "./policy.ts"
import type { PolicyBook } from "./policy-book.ts"

// Each try loses only to an activation in between; more than a few in a row is no race any more.
const maxTries = 5

export function moderationHandlers(deps: {
  readonly log: DecisionLog
  readonly book: PolicyBook
  readonly limitMs: number
}) {
  const { log, book, limitMs } = deps
  return {
    async moderate(request, context) {
      const { workspaceId, runId, stepIndex, tool } = request
      const { signal } = context
      const input = toJudgeInput(request, callerOf(context))
      for (let tries = 0; tries < maxTries; tries += 1) {
        const policyVersion = await book.activeVersion(workspaceId, signal)
        const load = () => book.load(workspaceId, policyVersion, signal)
        const evaluation = await evaluate(load, input, { signal, limitMs })
        const decisionId = newId()
        const about = { decisionId, subject: input.subject, policyVersion, tool, runId, stepIndex }
        const decision = toNewDecision(about, evaluation)
        const made = { workspaceId, decision, createTime: new Date() }
        const isTaken =
          (mayBeStoredBehind(input, evaluation) &&
            book.isInForce(workspaceId, policyVersion) &&
            log.storeBehind(made)) ||
          (await log.store(made, signal))
        if (isTaken) return { decision: toDecision(workspaceId, decision, made.createTime) }
      }
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "the active policy" })
    },
  } satisfies Handlers<typeof ModerationService>
}

/** Whether a decision may be lost: one that lets something harmless pass, and says nothing but that. */
function mayBeStoredBehind({ risk }: JudgeInput, { judgement }: Evaluation): boolean {
  return judgement.kind === "allowed" && risk !== "high"
}
