import type { Tx } from "../../../mesh/database.ts"
import { type ApprovalRow, approvalColumns, toApprovalRecord } from "../approval/approval-store.ts"
import { type RunRow, runColumns, takeRun, toRunRecord } from "./run-store.ts"
import { clockFrom, type Snapshot } from "./snapshot.ts"
import { type ToolCallRow, toolCallColumns, toToolCallRecord } from "./tool-call-store.ts"

/** By what a run is found. */
export type RunPlace =
  | { readonly kind: "run"; readonly id: string }
  | { readonly kind: "approval"; readonly id: string }
  | { readonly kind: "tool_call"; readonly id: string }

/**
 * Reads a run with everything that its next step depends on, in one statement; undefined where there
 * is none. Its approval is the one by which it was found, else the current call's.
 */
export async function readSnapshot(
  tx: Tx,
  workspaceId: string,
  { kind, id }: RunPlace,
): Promise<Snapshot | undefined> {
  const row = await tx.maybe<RunRow & PartsRow>(
    `select ${runColumns}, ${partsOf("r", kind === "approval" ? "$2::uuid" : undefined)}
     from runs r where workspace_id = $1::uuid and run_id = ${runIdBy[kind]}`,
    [workspaceId, id],
  )
  if (row === undefined) return undefined
  const { calls, approval, now, ...run } = row
  return toSnapshot(run, { calls, approval, now })
}

/** Fences earlier owners out and reads the run; undefined where it needs no owner any more. */
export async function takeSnapshot(
  tx: Tx,
  workspaceId: string,
  runId: string,
  epoch: number,
): Promise<Snapshot | undefined> {
  const run = await takeRun(tx, workspaceId, runId, epoch)
  if (run === undefined) return undefined
  // By a statement of its own: the lock may have been waited for, and this sees what was stored then.
  const parts = await tx.one<PartsRow>(
    `select ${partsOf("r")} from runs r where workspace_id = $1::uuid and run_id = $2::uuid`,
    [workspaceId, runId],
  )
  return toSnapshot(run, parts)
}

const runIdBy: Readonly<Record<RunPlace["kind"], string>> = {
  run: "$2::uuid",
  approval: `(select a.run_id from approvals a
    where a.workspace_id = $1::uuid and a.approval_id = $2::uuid)`,
  tool_call: `(select t.run_id from tool_calls t
    where t.workspace_id = $1::uuid and t.tool_call_id = $2::uuid)`,
}

/** What belongs to a run, as JSON: rows of several tables by one statement. */
interface PartsRow {
  readonly calls: readonly InJson<ToolCallRow>[]
  readonly approval: InJson<ApprovalRow> | null
  readonly now: Date
}

type InJson<T> = { readonly [Key in keyof T]: T[Key] extends Date ? string : T[Key] }

function partsOf(run: string, approvalId?: string): string {
  const current = `(select approval_id from tool_calls c where c.workspace_id = ${run}.workspace_id
    and c.run_id = ${run}.run_id and c.step_index = ${run}.step_index)`
  return `clock_timestamp() as now,
    (select json_agg(call order by call."stepIndex") from (
      select ${toolCallColumns} from tool_calls t
      where t.workspace_id = ${run}.workspace_id and t.run_id = ${run}.run_id) call) as calls,
    (select row_to_json(asked) from (
      select ${approvalColumns} from approvals a
      where a.workspace_id = ${run}.workspace_id
        and a.approval_id = ${approvalId ?? current}) asked) as approval`
}

function toSnapshot(run: RunRow, { calls: rows, approval, now }: PartsRow): Snapshot {
  const calls = rows.map((call) => toToolCallRecord(withDates(call, callTimes)))
  const planned = calls.map(({ plannedArguments }) => plannedArguments)
  return {
    run: toRunRecord(run, planned),
    calls,
    approval: approval === null ? undefined : toApprovalRecord(withDates(approval, approvalTimes)),
    clock: clockFrom(now),
  }
}

const callTimes = ["createTime", "updateTime", "startTime", "endTime"] as const
const approvalTimes = ["expireTime", "decideTime", "consumeTime", "createTime"] as const

/** The row as it would have been read without the detour over JSON. */
function withDates<T extends object>(row: object, times: readonly (keyof T)[]): T {
  const read = { ...row } as T
  for (const time of times) {
    const text = read[time] as string | null
    if (text !== null) read[time] = new Date(text) as T[keyof T]
  }
  return read
}
