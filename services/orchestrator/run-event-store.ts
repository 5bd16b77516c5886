import type { Tx } from "../../mesh/database.ts"

export interface StoredEntry {
  readonly sequence: number
  readonly payload: Uint8Array
  readonly createTime: Date
}

/** Entries of a history after a sequence, in order. */
export function entriesAfter(
  tx: Tx,
  workspaceId: string,
  runId: string,
  page: { readonly after: number; readonly limit: number },
): Promise<readonly StoredEntry[]> {
  return tx.query<StoredEntry>(
    `select sequence, payload, create_time as "createTime" from run_events
     where workspace_id = $1::uuid and run_id = $2::uuid and sequence > $3::bigint
     order by sequence limit $4::integer`,
    [workspaceId, runId, page.after, page.limit],
  )
}
