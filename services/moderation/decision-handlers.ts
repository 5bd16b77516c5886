import type { ServiceImpl } from "@connectrpc/connect"
import type { DecisionService } from "../../gen/runwarden/moderation/v1/decision_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound } from "../../mesh/errors.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import type { DecisionLog } from "./decision-log.ts"
import { storedDecision, verdictName } from "./decision-message.ts"
import { findDecision, listDecisions } from "./decision-store.ts"

const sizes = { default: 50, max: 200 }

/** What this replica has answered is stored, or was tried to be, before it is read here. */
export function decisionHandlers(deps: { readonly database: Database; readonly log: DecisionLog }) {
  const { database, log } = deps
  return {
    async getDecision({ workspaceId, decisionId }, { signal }) {
      await log.tried(workspaceId)
      const row = await database.tenant(
        workspaceId,
        (tx) => findDecision(tx, workspaceId, decisionId),
        { signal, name: "findDecision" },
      )
      if (row === undefined) throw notFound("decision", decisionId)
      return { decision: storedDecision(workspaceId, row) }
    },

    async listDecisions(request, { signal }) {
      const { workspaceId, runId } = request
      const verdict = verdictName(request.verdict)
      const filters = ["decisions", workspaceId, verdict, runId]
      const { limit, after } = readPage(request, filters, sizes)
      await log.tried(workspaceId)
      const rows = await database.tenant(
        workspaceId,
        (tx) =>
          listDecisions(tx, workspaceId, { verdict, runId, before: after?.[0], limit: limit + 1 }),
        { signal, name: "listDecisions" },
      )
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        decisions: page.map((row) => storedDecision(workspaceId, row)),
        nextPageToken:
          rows.length > limit && last !== undefined ? nextPage(filters, [last.decision_id]) : "",
      }
    },
  } satisfies ServiceImpl<typeof DecisionService>
}
