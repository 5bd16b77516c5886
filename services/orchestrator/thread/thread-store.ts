import type { Database, Statement, Tx } from "../../../mesh/database.ts"

export interface ThreadRecord {
  readonly workspaceId: string
  readonly threadId: string
  /** The live runs in their order; the first one's turn it is. */
  readonly line: readonly string[]
  readonly runCount: number
  readonly createTime: Date
  readonly updateTime: Date
  /** The time of the last use as exactly as it is stored, for pages. */
  readonly used: string
}

/** As many live runs as a thread may have; the table says the same. */
export const maxRunsInLine = 100

export interface ThreadKey {
  readonly workspaceId: string
  readonly threadId: string
}

/**
 * Makes sure that a thread is there before a run joins it, and answers who is in its line. A live run
 * for which the thread was made, before anybody named it, is in it from now on: its revision moves, so
 * that whoever carries it out learns of it.
 */
export async function enterThread(
  database: Database,
  { workspaceId, threadId }: ThreadKey,
): Promise<readonly string[]> {
  const values = [workspaceId, threadId]
  const [row] = await database.batch<{ readonly line: readonly string[] }>(
    [workspaceId],
    enterStatement,
    values,
  )
  return row?.line ?? []
}

const enterStatement: Statement = {
  name: "enter-thread",
  text: `
  with known as (
    select line from threads where workspace_id = $1::uuid and thread_id = $2::uuid
  ), adopted as (
    update runs r set in_line = true, revision = r.revision + 1
    where r.workspace_id = $1::uuid and r.thread_id = $2::uuid and r.end_time is null
      and not r.in_line and not exists (select from known)
    returning r.run_id
  ), made as (
    insert into threads (workspace_id, thread_id, line, run_count)
    select $1::uuid, $2::uuid, array(select run_id from adopted order by run_id),
      (select count(*) from runs where workspace_id = $1::uuid and thread_id = $2::uuid)
    where not exists (select from known)
    on conflict (workspace_id, thread_id) do nothing
    returning line
  )
  select line from known union all select line from made`,
}

/** Who is in the line of a thread. */
export async function readLine(tx: Tx, { workspaceId, threadId }: ThreadKey) {
  const row = await tx.maybe<{ readonly line: readonly string[] }>(
    "select line from threads where workspace_id = $1::uuid and thread_id = $2::uuid",
    [workspaceId, threadId],
  )
  return row?.line ?? []
}

/** Where a run stands in the line of its thread. */
export interface Place {
  readonly isFirst: boolean
  /** False where the line is as long as it may be. */
  readonly isInLine: boolean
}

/** Joins the line unless the run is in it. The run's row must be locked. */
export async function joinLine(
  tx: Tx,
  { workspaceId, threadId, runId }: ThreadKey & { readonly runId: string },
): Promise<Place> {
  return tx.one<Place>(
    `update threads set line = case when $3::uuid = any (line) or cardinality(line) >= $4::integer
       then line else line || $3::uuid end
     where workspace_id = $1::uuid and thread_id = $2::uuid
     returning line[1] = $3::uuid as "isFirst", $3::uuid = any (line) as "isInLine"`,
    [workspaceId, threadId, runId, maxRunsInLine],
  )
}

const columns = `workspace_id as "workspaceId", thread_id as "threadId", line,
  run_count as "runCount", create_time as "createTime", update_time as "updateTime",
  update_time::text as used`

/** One thread, also where nobody has named it: then its runs say how it stands. */
export function findThread(
  tx: Tx,
  workspaceId: string,
  threadId: string,
): Promise<ThreadRecord | undefined> {
  return tx.maybe<ThreadRecord>(
    `select ${columns} from threads where workspace_id = $1::uuid and thread_id = $2::uuid
     union all
     select $1::uuid, $2::uuid,
       coalesce(array_agg(run_id order by run_id) filter (where end_time is null), '{}'),
       count(*), min(create_time), max(coalesce(end_time, create_time)), ''
     from runs where workspace_id = $1::uuid and thread_id = $2::uuid
       and not exists (select from threads where workspace_id = $1::uuid and thread_id = $2::uuid)
     having count(*) > 0`,
    [workspaceId, threadId],
  )
}

/** Threads that somebody has named, the last used first. */
export function listThreads(
  tx: Tx,
  workspaceId: string,
  { isBusyOnly }: { readonly isBusyOnly: boolean },
  page: { readonly limit: number; readonly after: readonly string[] | undefined },
): Promise<readonly ThreadRecord[]> {
  const [used, threadId] = page.after ?? []
  return tx.query<ThreadRecord>(
    `select ${columns} from threads
     where workspace_id = $1::uuid and (not $2::boolean or line <> '{}')
       and ($3::timestamptz is null or (update_time, thread_id) < ($3::timestamptz, $4::uuid))
     order by update_time desc, thread_id desc limit $5::integer`,
    [workspaceId, isBusyOnly, used ?? null, threadId ?? null, page.limit],
  )
}
