import type { Tx } from "../../../mesh/database.ts"
import type { LedgerState } from "./ledger.ts"

/** A row of the ledger, as far as a list shows it. */
export interface SentRow {
  readonly tool: string
  readonly idempotencyKey: string
  readonly runId: string
  readonly stepIndex: number
  readonly state: LedgerState
  readonly attempts: number
  readonly createTime: Date
  readonly endTime: Date | null
}

/** Calls that were sent, in the order of the primary key. A key that was sealed unsent is no call. */
export function listSent(
  tx: Tx,
  workspaceId: string,
  page: { readonly limit: number; readonly after: readonly string[] | undefined },
): Promise<readonly SentRow[]> {
  const [tool = "", key = ""] = page.after ?? []
  return tx.query<SentRow>(
    `select tool, idempotency_key as "idempotencyKey", run_id as "runId",
       step_index as "stepIndex", state, attempts, create_time as "createTime",
       end_time as "endTime"
     from executions
     where workspace_id = $1::uuid and (tool, idempotency_key) > ($2::text, $3::text)
       and attempts > 0
     order by tool, idempotency_key limit $4::integer`,
    [workspaceId, tool, key, page.limit],
  )
}
