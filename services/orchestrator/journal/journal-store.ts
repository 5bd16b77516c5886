import type { Tx } from "../../../mesh/database.ts"

/** One row of the journal, as far as a run's history is concerned. */
export interface JournalRow {
  readonly firstSequence: number
  /** A ListRunEventsResponse without sequences and times. */
  readonly entries: Uint8Array
  readonly createTime: Date
}

/** The rows that hold a run's history after a sequence, in order: the first may begin before it. */
export function historyAfter(
  tx: Tx,
  workspaceId: string,
  runId: string,
  page: { readonly after: number; readonly limit: number },
): Promise<readonly JournalRow[]> {
  return tx.query<JournalRow>(
    `select first_sequence as "firstSequence", entries, create_time as "createTime" from journal
     where workspace_id = $1::uuid and run_id = $2::uuid and first_sequence >= coalesce((
       select max(first_sequence) from journal
       where workspace_id = $1::uuid and run_id = $2::uuid and first_sequence <= $3::bigint + 1), 1)
     order by first_sequence limit $4::integer`,
    [workspaceId, runId, page.after, page.limit],
  )
}
