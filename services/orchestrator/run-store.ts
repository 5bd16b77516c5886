import type { Tx } from "../../mesh/database.ts"
import type { RunState } from "./run.ts"
import type { Denial, RunRecord, ToolCallRecord } from "./snapshot.ts"

const listColumns = `
  workspace_id as "workspaceId", run_id as "runId", thread_id as "threadId",
  requester_id as "requesterId", requester_role as "requesterRole", state, reason,
  policy_denial as "policyDenial", moderation_outcome as "moderationOutcome",
  plan_name as "planName", step_index as "stepIndex", step_count as "stepCount", epoch, revision,
  trace_id as "traceId", trace_parent as "traceParent", request_id as "requestId", deadline,
  create_time as "createTime", update_time as "updateTime", end_time as "endTime"`

const columns = `${listColumns}, plan, input`

interface RunRow extends Omit<RunRecord, "policyDenial" | "moderationOutcome" | "endTime"> {
  readonly policyDenial: string | null
  readonly moderationOutcome: RunRecord["moderationOutcome"] | null
  readonly endTime: Date | null
}

/** A run to insert: times and what starts at zero are the database's business. */
export interface NewRun {
  readonly run: Omit<RunRecord, "deadline" | "createTime" | "updateTime" | "endTime">
  readonly timeoutMs: number
  readonly calls: readonly ToolCallRecord[]
  readonly entries: readonly Uint8Array[]
  /** Who owns the run from the start; undefined leaves it to whoever comes first. */
  readonly lease: { readonly owner: string; readonly leaseMs: number } | undefined
}

/** Stores a run with its calls, the beginning of its history and its claim, in one statement. */
export async function insertRun(tx: Tx, { run, timeoutMs, calls, entries, lease }: NewRun) {
  const row = await tx.one<RunRow>(
    `with run as (
       insert into runs (workspace_id, run_id, thread_id, requester_id, requester_role, state,
         plan_name, plan, input, step_count, epoch, event_count, trace_id, trace_parent,
         request_id, deadline)
       values ($1::uuid, $2::uuid, $3::uuid, $4::text, $5::smallint, $6::text, $7::text, $8::text,
         $9::text, $10::integer, 1, cardinality($14::bytea[]), $11::text, $12::text, $13::uuid,
         now() + $15::double precision * interval '1 millisecond')
       returning ${columns}
     ), claimed as (
       insert into run_claims (workspace_id, run_id, owner, epoch, due_time)
       select $1::uuid, $2::uuid, $16::uuid, 1,
         now() + $17::double precision * interval '1 millisecond' from run
     ), listed as (
       insert into run_events (workspace_id, run_id, sequence, payload)
       select $1::uuid, $2::uuid, entry.position, entry.payload
       from run, unnest($14::bytea[]) with ordinality as entry (payload, position)
     ), planned as (
       insert into tool_calls (workspace_id, run_id, step_index, tool_call_id, idempotency_key,
         tool, tool_version, definition_digest, risk_class, effect, title, on_error, state,
         planned_arguments)
       select $1::uuid, $2::uuid, c.step_index, c.tool_call_id, c.idempotency_key, c.tool,
         c.tool_version, c.definition_digest, c.risk_class, c.effect, c.title, c.on_error,
         'proposed', c.planned_arguments
       from run, jsonb_to_recordset($18::jsonb) as c (step_index integer, tool_call_id uuid,
         idempotency_key text, tool text, tool_version text, definition_digest text,
         risk_class text, effect text, title text, on_error text, planned_arguments text)
     )
     select * from run`,
    [
      run.workspaceId,
      run.runId,
      run.threadId,
      run.requesterId,
      run.requesterRole,
      run.state,
      run.planName,
      run.plan,
      run.input,
      run.stepCount,
      run.traceId,
      run.traceParent,
      run.requestId,
      entries,
      timeoutMs,
      lease?.owner ?? null,
      lease?.leaseMs ?? 0,
      JSON.stringify(
        calls.map((call) => ({
          step_index: call.stepIndex,
          tool_call_id: call.toolCallId,
          idempotency_key: call.idempotencyKey,
          tool: call.tool,
          tool_version: call.toolVersion,
          definition_digest: call.definitionDigest,
          risk_class: call.riskClass,
          effect: call.effect,
          title: call.title,
          on_error: call.onError,
          planned_arguments: JSON.stringify(call.plannedArguments),
        })),
      ),
    ],
  )
  return toRecord(row)
}

/** One run; undefined where the workspace has none of this id. */
export async function findRun(
  tx: Tx,
  workspaceId: string,
  runId: string,
  options: { readonly lock?: boolean } = {},
): Promise<RunRecord | undefined> {
  const row = await tx.maybe<RunRow>(
    `select ${columns} from runs where workspace_id = $1::uuid and run_id = $2::uuid
     ${options.lock === true ? "for update" : ""}`,
    [workspaceId, runId],
  )
  return row === undefined ? undefined : toRecord(row)
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
export async function takeRun(
  tx: Tx,
  workspaceId: string,
  runId: string,
  epoch: number,
): Promise<RunRecord | undefined> {
  const row = await tx.maybe<RunRow>(
    `update runs set epoch = $3::bigint
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch <= $3::bigint and end_time is null
     returning ${columns}`,
    [workspaceId, runId, epoch],
  )
  return row === undefined ? undefined : toRecord(row)
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
  return rows.map(toRecord)
}

function toRecord(row: RunRow): RunRecord {
  return {
    ...row,
    policyDenial: row.policyDenial === null ? undefined : (JSON.parse(row.policyDenial) as Denial),
    moderationOutcome: row.moderationOutcome ?? undefined,
    endTime: row.endTime ?? undefined,
  }
}
