import type { Tx } from "../../../mesh/database.ts"
import { type DayUse, dayMeters, type Exhaustion, isFull, type MaxUsage } from "./budget.ts"

/** A workspace's budget, and what was used of it today. */
export interface WorkspaceBudgetRecord extends DayUse {
  /** What is held for calls that have not ended. */
  readonly reservedTokens: number
  readonly reservedCostMicros: number
  readonly warnTime: Date | null
  readonly resetTime: Date
  readonly updaterId: string
  readonly updateTime: Date | null
  /** 0 where it was never set. */
  readonly revision: number
}

/** The name of the check that fails where a call has no room in its workspace's day. */
export const usageLimit = "workspace_usage_limit"

/** The budget of a workspace, also where it was never set. */
export function findBudget(tx: Tx, workspaceId: string): Promise<WorkspaceBudgetRecord> {
  return tx.one<WorkspaceBudgetRecord>(
    `select coalesce(b.max_calls, 0) as "maxCalls",
       coalesce(b.max_tokens, 0) as "maxTokens", coalesce(b.max_cost_micros, 0) as "maxCostMicros",
       coalesce(u.calls, 0) as calls, coalesce(u.tokens, 0) as tokens,
       coalesce(u.cost_micros, 0) as "costMicros",
       coalesce(u.reserved_tokens, 0) as "reservedTokens",
       coalesce(u.reserved_cost_micros, 0) as "reservedCostMicros",
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
    readonly maxTokens: number
    readonly maxCostMicros: number
    readonly updaterId: string
    readonly revision: number | undefined
  },
): Promise<boolean> {
  const row = await tx.maybe(
    `insert into workspace_budgets as b (workspace_id, max_calls, updater_id, max_tokens,
       max_cost_micros)
     select $1::uuid, $2::bigint, $3::text, $5::bigint, $6::bigint
     where coalesce($4::bigint, 0) = 0
       or exists (select from workspace_budgets where workspace_id = $1::uuid)
     on conflict (workspace_id) do update set max_calls = excluded.max_calls,
       max_tokens = excluded.max_tokens, max_cost_micros = excluded.max_cost_micros,
       count_time = case when b.max_calls + b.max_tokens + b.max_cost_micros = 0 then now()
         else b.count_time end,
       updater_id = excluded.updater_id, update_time = now(), revision = b.revision + 1
       where $4::bigint is null or b.revision = $4::bigint
     returning workspace_id`,
    [
      ...[workspaceId, budget.maxCalls, budget.updaterId, budget.revision ?? null],
      ...[budget.maxTokens, budget.maxCostMicros],
    ],
  )
  return row !== undefined
}

/** How the workspace has no room for one more such call today; undefined where it has. */
export async function findExhaustion(
  tx: Tx,
  workspaceId: string,
  wanted: MaxUsage | undefined,
): Promise<Exhaustion | undefined> {
  const { resetTime, ...budget } = await findBudget(tx, workspaceId)
  const tokens = budget.tokens + budget.reservedTokens
  const costMicros = budget.costMicros + budget.reservedCostMicros
  const meters = dayMeters({ ...budget, tokens, costMicros })
  const full = meters.find((meter) => isFull(meter, wanted))
  return full === undefined ? undefined : { ...full, resetTime }
}
