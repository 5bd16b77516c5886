import type { Tx } from "../../../mesh/database.ts"
import type { RunState } from "./run.ts"

/** Which live runs; a member that is empty holds of all. */
export interface LiveRunFilter {
  readonly states: readonly RunState[]
  readonly threadId: string
  readonly requesterId: string
  readonly planName: string
  /** Times as ISO 8601. */
  readonly startedAfter: string
  readonly startedBefore: string
}

/** That none has succeeded follows from the rest, and lets the index of those that have not serve it. */
const condition = `workspace_id = $1::uuid and end_time is null and state <> 'succeeded'
  and state = any ($2::text[])
  and ($3::uuid is null or thread_id = $3::uuid) and ($4::text = '' or requester_id = $4::text)
  and ($5::text = '' or plan_name = $5::text)
  and ($6::timestamptz is null or create_time >= $6::timestamptz)
  and ($7::timestamptz is null or create_time < $7::timestamptz)
  and ($8::uuid is null or run_id < $8::uuid)`

/** Ids of live runs, newest first. */
export async function findLiveRuns(
  tx: Tx,
  workspaceId: string,
  filter: LiveRunFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly string[]> {
  const rows = await tx.query<{ readonly runId: string }>(
    `select run_id as "runId" from runs where ${condition} order by run_id desc limit $9::integer`,
    [...valuesOf(workspaceId, filter, page.after), page.limit],
  )
  return rows.map(({ runId }) => runId)
}

/** How many there are, of this page and all after it. */
export async function countLiveRuns(
  tx: Tx,
  workspaceId: string,
  filter: LiveRunFilter,
  after: string | undefined,
): Promise<number> {
  const { count } = await tx.one<{ readonly count: number }>(
    `select count(*) as count from runs where ${condition}`,
    valuesOf(workspaceId, filter, after),
  )
  return count
}

function valuesOf(workspaceId: string, filter: LiveRunFilter, after: string | undefined) {
  const { states, threadId, requesterId, planName, startedAfter, startedBefore } = filter
  const orNull = (text: string) => (text === "" ? null : text)
  return [
    ...[workspaceId, states, orNull(threadId), requesterId, planName],
    ...[orNull(startedAfter), orNull(startedBefore), after ?? null],
  ]
}
