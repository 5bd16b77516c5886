import type { Client, ServiceImpl } from "@connectrpc/connect"
import { OrphanCause } from "../../../gen/runwarden/orchestrator/v1/orphan_pb.ts"
import type { OrphanService } from "../../../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import type { LedgerService } from "../../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { outgoing } from "../../../mesh/identity.ts"
import { type CallPlace, knownCalls } from "./orphan-store.ts"

export interface OrphanHandlerDeps {
  readonly database: Database
  readonly ledger: Client<typeof LedgerService>
}

/** OrphanService. */
export function orphanHandlers({ database, ledger }: OrphanHandlerDeps) {
  return {
    async listOrphans(request, context) {
      const { workspaceId, pageSize, pageToken } = request
      // The ledger first: whatever it has by now was stored here before.
      const { calls, nextPageToken } = await ledger.listExecutions(
        { workspaceId, pageSize, pageToken },
        outgoing(context),
      )
      const known = await database.tenant(workspaceId, (tx) => knownCalls(tx, workspaceId, calls), {
        signal: context.signal,
        name: "known calls",
      })
      const sent = new Map(known.map((call) => [placeOf(call), call.wasSent]))
      return {
        orphans: calls.flatMap(({ $typeName: _, attempts: __, ...call }) => {
          const wasSent = sent.get(placeOf(call))
          if (wasSent === true) return []
          const cause = wasSent === undefined ? OrphanCause.UNKNOWN_RUN : OrphanCause.NOT_SENT
          return [{ workspaceId, cause, ...call }]
        }),
        nextPageToken,
      }
    },
  } satisfies ServiceImpl<typeof OrphanService>
}

function placeOf({ runId, stepIndex }: CallPlace): string {
  return `${runId}/${stepIndex}`
}
