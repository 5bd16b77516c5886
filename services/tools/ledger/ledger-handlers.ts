import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import type { LedgerService } from "../../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { executionStates } from "../registry/tool-message.ts"
import { listSent } from "./ledger-list-store.ts"

const sizes = { default: 200, max: 1_000 }

/** LedgerService. */
export function ledgerHandlers({ database }: { readonly database: Database }) {
  return {
    async listExecutions(request, { signal }) {
      const { workspaceId } = request
      const { limit, after } = readPage(request, { workspaceId }, sizes)
      const rows = await database.tenant(
        workspaceId,
        (tx) => listSent(tx, workspaceId, { limit: limit + 1, after }),
        { signal, name: "list executions" },
      )
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        calls: page.map(({ state, createTime, endTime, ...row }) => ({
          ...row,
          state: executionStates[state],
          createTime: timestampFromDate(createTime),
          ...(endTime === null ? {} : { endTime: timestampFromDate(endTime) }),
        })),
        nextPageToken:
          rows.length > limit && last !== undefined
            ? nextPage({ workspaceId }, [last.tool, last.idempotencyKey])
            : "",
      }
    },
  } satisfies ServiceImpl<typeof LedgerService>
}
