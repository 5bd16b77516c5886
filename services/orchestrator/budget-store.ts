import type { Tx } from "../../mesh/database.ts"
import type { Exhaustion } from "./budget.ts"

/** A workspace's budget, and what was used of it today. */
export interface WorkspaceBudgetRecord {
  /** 0 for any number. */
  readonly maxCalls: number
  readonly calls: number
  readonly warnTime: Date | null
  readonly resetTime: Date
  readonly updaterId: string
  readonly updateTime: Date | null
  /** 0 where it was never set. */
  readonly revision: number
}

/**
 * The part of a statement that charges the workspaces of admitted calls, where they have a budget: a
 * look at each one's key otherwise. `source` has `workspace_id`, and in `calls` how many it admits. It
 * is carried out behind all that others wait for, and fails where a limit would be passed.
 */
export function chargeSql(source: string): string {
  return `charged as (
    insert into workspace_usage as u (workspace_id, day, calls)
    select s.workspace_id, (now() at time zone 'UTC')::date, sum(s.calls)
    from ${source} s join workspace_budgets b on b.workspace_id = s.workspace_id
    where s.calls > 0 and b.max_calls > 0
    group by s.workspace_id order by s.workspace_id
    on conflict (workspace_id, day) do update set calls = u.calls + excluded.calls
  )`
}

/** The name of the check that fails where a call has no room in its workspace's day. */
export const usageLimit = "workspace_usage_limit"

/** The budget of a workspace, also where it was never set. */
export function findBudget(tx: Tx, workspaceId: string): Promise<WorkspaceBudgetRecord> {
  return tx.one<WorkspaceBudgetRecord>(
    `select coalesce(b.max_calls, 0) as "maxCalls", coalesce(u.calls, 0) as calls,
       u.warn_time as "warnTime", (today.day + 1)::timestamp at time zone 'UTC' as "resetTime",
       coalesce(b.updater_id, '') as "updaterId", b.update_time as "updateTime",
       coalesce(b.revision, 0) as revision
     from (select (now() at time zone 'UTC')::date as day) today
     left join workspace_budgets b on b.workspace_id = $1::uuid
     left join workspace_usage u on u.workspace_id = $1::uuid and u.day = today.day`,
    [workspaceId],
  )
}

/** Sets it; false where `revision` is given and is not the current one (0: never set). */
export async function setBudget(
  tx: Tx,
  workspaceId: string,
  budget: {
    readonly maxCalls: number
    readonly updaterId: string
    readonly revision: number | undefined
  },
): Promise<boolean> {
  const row = await tx.maybe(
    `insert into workspace_budgets as b (workspace_id, max_calls, updater_id)
     select $1::uuid, $2::bigint, $3::text
     where coalesce($4::bigint, 0) = 0
       or exists (select from workspace_budgets where workspace_id = $1::uuid)
     on conflict (workspace_id) do update set max_calls = excluded.max_calls,
       updater_id = excluded.updater_id, update_time = now(), revision = b.revision + 1
       where $4::bigint is null or b.revision = $4::bigint
     returning workspace_id`,
    [workspaceId, budget.maxCalls, budget.updaterId, budget.revision ?? null],
  )
  return row !== undefined
}

/** How the workspace has no room for one more call today; undefined where it has. */
export async function findExhaustion(tx: Tx, workspaceId: string): Promise<Exhaustion | undefined> {
  const { maxCalls, calls, resetTime } = await findBudget(tx, workspaceId)
  if (maxCalls === 0 || calls < maxCalls) return undefined
  return { budget: "workspace_daily_tool_calls", used: calls, limit: maxCalls, resetTime }
}
