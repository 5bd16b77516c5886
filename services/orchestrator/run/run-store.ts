import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../../mesh/database.ts"
import type { RunBudget } from "../budget/budget.ts"
import type { RunState } from "./run.ts"
import type { Denial, RunRecord } from "./snapshot.ts"

const listColumns = `
  workspace_id as "workspaceId", run_id as "runId", thread_id as "threadId", in_line as "isInLine",
  requester_id as "requesterId", requester_role as "requesterRole", state, reason,
  policy_denial as "policyDenial", moderation_outcome as "moderationOutcome",
  budget, used_calls as "usedCalls",
  used_input_tokens as "usedInputTokens", used_output_tokens as "usedOutputTokens",
  used_cost_micros as "usedCostMicros", event_count as "eventCount", payload_bytes as "payloadBytes",
  plan_name as "planName", step_index as "stepIndex", step_count as "stepCount", epoch, revision,
  trace_id as "traceId", trace_parent as "traceParent", request_id as "requestId", deadline, start_time as "startTime",
  create_time as "createTime", update_time as "updateTime", end_time as "endTime"`

/** The columns of a whole run but the arguments of its plan, by the names of its record. */
export const runColumns = `${listColumns}, plan, input`

/** A run as it is read. */
export interface RunRow
  extends Omit<
    RunRecord,
    "policyDenial" | "moderationOutcome" | "budget" | "planArguments" | "startTime" | "endTime"
  > {
  readonly policyDenial: string | null
  readonly moderationOutcome: RunRecord["moderationOutcome"] | null
  readonly budget: string | null
  readonly startTime: Date | null
  readonly endTime: Date | null
}

/** One run; undefined where the workspace has none of this id. */
export async function findRun(
  tx: Tx,
  workspaceId: string,
  runId: string,
): Promise<RunRecord | undefined> {
  const row = await tx.maybe<RunRow & { readonly planned: readonly string[] | null }>(
    `select ${runColumns}, (select array_agg(t.planned_arguments order by t.step_index)
       from tool_calls t
       where t.workspace_id = r.workspace_id and t.run_id = r.run_id) as planned
     from runs r where workspace_id = $1::uuid and run_id = $2::uuid`,
    [workspaceId, runId],
  )
  if (row === undefined) return undefined
  const { planned, ...run } = row
  return toRunRecord(
    run,
    (planned ?? []).map((text) => JSON.parse(text) as JsonObject),
  )
}

/** How a run stands, without its plan and input; undefined where the workspace has none of this id. */
export async function findRunState(
  tx: Tx,
  workspaceId: string,
  runId: string,
): Promise<RunState | undefined> {
  const row = await tx.maybe<{ readonly state: RunState }>(
    "select state from runs where workspace_id = $1::uuid and run_id = $2::uuid",
    [workspaceId, runId],
  )
  return row?.state
}

/** Fences every earlier owner out, and reads the run; undefined where it needs no owner any more. */
export function takeRun(
  tx: Tx,
  workspaceId: string,
  runId: string,
  epoch: number,
): Promise<RunRow | undefined> {
  return tx.maybe<RunRow>(
    `update runs set epoch = $3::bigint
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch <= $3::bigint and end_time is null
     returning ${runColumns}`,
    [workspaceId, runId, epoch],
  )
}

export interface RunFilter {
  readonly states: readonly RunState[]
  readonly threadId: string
}

/** Runs newest first, without plans and inputs. */
export async function listRuns(
  tx: Tx,
  workspaceId: string,
  filter: RunFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly RunRecord[]> {
  const rows = await tx.query<RunRow>(
    `select ${listColumns}, '' as plan, '' as input from runs
     where workspace_id = $1::uuid
       and ($2::text[] = '{}' or state = any ($2::text[]))
       and ($3::uuid is null or thread_id = $3::uuid)
       and ($4::uuid is null or run_id < $4::uuid)
     order by run_id desc limit $5::integer`,
    [
      workspaceId,
      filter.states,
      filter.threadId === "" ? null : filter.threadId,
      page.after ?? null,
      page.limit,
    ],
  )
  return rows.map((row) => toRunRecord(row, []))
}

export function toRunRecord(row: RunRow, planArguments: readonly JsonObject[]): RunRecord {
  return {
    ...row,
    planArguments,
    policyDenial: row.policyDenial === null ? undefined : (JSON.parse(row.policyDenial) as Denial),
    moderationOutcome: row.moderationOutcome ?? undefined,
    budget: row.budget === null ? undefined : (JSON.parse(row.budget) as RunBudget),
    startTime: row.startTime ?? undefined,
    endTime: row.endTime ?? undefined,
  }
}
