import type { ServiceImpl } from "@connectrpc/connect"
import type { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { toDecision, toNewDecision } from "./decision-message.ts"
import { insertDecision } from "./decision-store.ts"
import { evaluate } from "./evaluation.ts"
import { toJudgeInput } from "./judge-input.ts"
import type { PolicyBook } from "./policy-book.ts"

// Each try loses only to an activation in between; more than a few in a row is no race any more.
const maxTries = 5

export function moderationHandlers(deps: {
  readonly database: Database
  readonly book: PolicyBook
  readonly limitMs: number
}) {
  const { database, book, limitMs } = deps
  return {
    async moderate(request, context) {
      const { workspaceId } = request
      const { signal } = context
      const input = toJudgeInput(request, callerOf(context))
      for (let tries = 0; tries < maxTries; tries += 1) {
        const policyVersion = await book.activeVersion(workspaceId, signal)
        const load = () => book.load(workspaceId, policyVersion, signal)
        const evaluation = await evaluate(load, input, { signal, limitMs })
        const { runId, stepIndex, tool } = request
        const decisionId = newId()
        const decision = toNewDecision(
          { decisionId, subject: input.subject, policyVersion, tool, runId, stepIndex },
          evaluation,
        )
        const { active, create_time: createTime } = await database.tenant(
          workspaceId,
          (tx) => insertDecision(tx, workspaceId, decision, book.defaultVersion),
          { signal, name: "insertDecision" },
        )
        if (createTime !== null) return { decision: toDecision(workspaceId, decision, createTime) }
        book.noteActive(workspaceId, active)
      }
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "the active policy" })
    },
  } satisfies ServiceImpl<typeof ModerationService>
}
