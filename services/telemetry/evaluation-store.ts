import type { Tx } from "../../mesh/database.ts"

/** Takes workspaces whose evaluation is due, and puts their next one off; skips what others take. */
export async function claimDueEvaluations(
  tx: Tx,
  options: { readonly limit: number; readonly intervalMs: number },
): Promise<readonly string[]> {
  const rows = await tx.query<{ readonly workspaceId: string }>(
    `update alert_evaluations_due
     set due_time = now() + $2::bigint * interval '1 millisecond'
     where workspace_id in (
       select workspace_id from alert_evaluations_due where due_time <= now()
       order by due_time limit $1::int for update skip locked)
     returning workspace_id as "workspaceId"`,
    [options.limit, options.intervalMs],
  )
  return rows.map((row) => row.workspaceId)
}

/** Takes a workspace off the timer until then, or for good; its next event puts it back. */
export async function postponeEvaluation(
  tx: Tx,
  workspaceId: string,
  untilMs: number | undefined,
): Promise<void> {
  await tx.query(
    untilMs === undefined
      ? "delete from alert_evaluations_due where workspace_id = $1::uuid"
      : `insert into alert_evaluations_due (workspace_id, due_time) values ($1::uuid, $2::timestamptz)
         on conflict (workspace_id) do update set due_time = excluded.due_time`,
    untilMs === undefined ? [workspaceId] : [workspaceId, new Date(untilMs).toISOString()],
  )
}

/** Has the workspace looked at within the interval. */
export async function rememberEvaluation(tx: Tx, intervalMs: number): Promise<void> {
  await tx.query(
    `insert into alert_evaluations_due as due (workspace_id, due_time)
     select own.workspace_id, own.due_time
     from (select runwarden.current_workspace() as workspace_id,
       now() + $1::bigint * interval '1 millisecond' as due_time) as own
     where not exists (select from alert_evaluations_due held
       where held.workspace_id = own.workspace_id and held.due_time <= own.due_time)
     on conflict (workspace_id) do update set due_time = excluded.due_time
     where due.due_time > excluded.due_time`,
    [intervalMs],
  )
}

/** Whether anything happened since that figures are of. */
export async function hasEventsSince(tx: Tx, sinceMs: number): Promise<boolean> {
  const { found } = await tx.one<{ readonly found: boolean }>(
    `select exists (select from run_records
       where workspace_id = runwarden.current_workspace()
         and last_micros >= 0 and last_micros >= $1::bigint and (state is not null or tally <> ''))
       or exists (select from approval_states
       where workspace_id = runwarden.current_workspace() and occur_time >= $2::timestamptz) as found`,
    [sinceMs * 1_000, new Date(sinceMs).toISOString()],
  )
  return found
}
