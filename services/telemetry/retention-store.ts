import type { Tx } from "../../mesh/database.ts"

/** Whether more is past retention than was deleted, and the time of the oldest that is not. */
export interface Expiry {
  readonly isMore: boolean
  readonly oldestMs: number | undefined
}

/**
 * Deletes what last happened before then, at most `limit` runs and as many approvals. A call whose
 * outcome is unknown keeps its run until it is settled, for it is still to be told of.
 */
export async function removeExpired(
  tx: Tx,
  { beforeMs, limit }: { readonly beforeMs: number; readonly limit: number },
): Promise<Expiry> {
  const row = await tx.one<{ readonly most: number; readonly oldest: number | null }>(
    `with runs as (
       delete from run_records where ctid = any (array(
         select ctid from run_records
         where workspace_id = runwarden.current_workspace()
           and last_micros >= 0 and last_micros < $1::bigint and unknown_calls = 0
         order by last_micros limit $2::int))
       returning 1
     ), approvals as (
       delete from approval_states where ctid = any (array(
         select ctid from approval_states
         where workspace_id = runwarden.current_workspace() and occur_time < $3::timestamptz
         order by occur_time limit $2::int))
       returning 1
     )
     select greatest((select count(*) from runs), (select count(*) from approvals))::int as most,
       (select min(last_micros) from run_records
        where workspace_id = runwarden.current_workspace()
          and last_micros >= 0 and last_micros >= $1::bigint) as oldest`,
    [beforeMs * 1_000, limit, new Date(beforeMs).toISOString()],
  )
  const oldestMs = row.oldest === null ? undefined : Math.ceil(row.oldest / 1_000)
  return { isMore: row.most >= limit, oldestMs }
}
