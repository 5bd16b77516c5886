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

/** Takes a workspace off the timer; its next event puts it back. */
export async function forgetEvaluation(tx: Tx, workspaceId: string): Promise<void> {
  await tx.query("delete from alert_evaluations_due where workspace_id = $1::uuid", [workspaceId])
}

/** Puts the workspace on the timer, unless it is. */
export async function rememberEvaluation(tx: Tx, intervalMs: number): Promise<void> {
  await tx.query(
    `insert into alert_evaluations_due (workspace_id, due_time)
     values (runwarden.current_workspace(), now() + $1::bigint * interval '1 millisecond')
     on conflict do nothing`,
    [intervalMs],
  )
}

/** Whether any event of the workspace was received since. */
export async function hasEventsSince(tx: Tx, sinceMs: number): Promise<boolean> {
  const { found } = await tx.one<{ readonly found: boolean }>(
    `select exists (select from events
       where workspace_id = runwarden.current_workspace()
         and kind in ('run', 'tool_call', 'moderation', 'approval')
         and occur_time >= $1::timestamptz) as found`,
    [new Date(sinceMs).toISOString()],
  )
  return found
}
