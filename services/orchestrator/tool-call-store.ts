import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../mesh/database.ts"
import type { Denial, ToolCallRecord, ToolFailure } from "./snapshot.ts"
import type { ToolCallState } from "./tool-call.ts"

const listColumns = `
  workspace_id as "workspaceId", run_id as "runId", step_index as "stepIndex",
  tool_call_id as "toolCallId", idempotency_key as "idempotencyKey", tool,
  tool_version as "toolVersion", definition_digest as "definitionDigest",
  risk_class as "riskClass", effect, title, on_error as "onError", state, reason,
  policy_denial as "policyDenial", arguments_digest as "argumentsDigest", provenance, verdict,
  decision_id as "decisionId", policy_version as "policyVersion", matched_rules as "matchedRules",
  moderation_outcome as "moderationOutcome", approval_id as "approvalId", attempts,
  is_withheld as "isWithheld", settler_id as "settlerId", trace_id as "traceId", revision,
  create_time as "createTime", update_time as "updateTime", start_time as "startTime",
  end_time as "endTime"`

const columns = `${listColumns}, planned_arguments as "plannedArguments", arguments, result, error`

type Nullable<T> = { readonly [Key in keyof T]: undefined extends T[Key] ? T[Key] | null : T[Key] }

interface ToolCallRow
  extends Omit<
    Nullable<ToolCallRecord>,
    "policyDenial" | "plannedArguments" | "arguments" | "result" | "error"
  > {
  readonly policyDenial: string | null
  readonly plannedArguments: string
  readonly arguments: string | null
  readonly result: string | null
  readonly error: string | null
}

/** Every call of a run, by step. */
export async function callsOfRun(
  tx: Tx,
  workspaceId: string,
  runId: string,
): Promise<readonly ToolCallRecord[]> {
  const rows = await tx.query<ToolCallRow>(
    `select ${columns} from tool_calls
     where workspace_id = $1::uuid and run_id = $2::uuid order by step_index`,
    [workspaceId, runId],
  )
  return rows.map(toRecord)
}

export async function findToolCall(
  tx: Tx,
  workspaceId: string,
  toolCallId: string,
): Promise<ToolCallRecord | undefined> {
  const row = await tx.maybe<ToolCallRow>(
    `select ${columns} from tool_calls
     where workspace_id = $1::uuid and tool_call_id = $2::uuid`,
    [workspaceId, toolCallId],
  )
  return row === undefined ? undefined : toRecord(row)
}

export interface ToolCallFilter {
  readonly runId: string
  readonly states: readonly ToolCallState[]
  readonly tool: string
}

/** Calls without arguments and outcomes: of one run in the order of steps, else newest first. */
export async function listToolCalls(
  tx: Tx,
  workspaceId: string,
  filter: ToolCallFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly ToolCallRecord[]> {
  const ofRun = filter.runId !== ""
  const scope = ofRun
    ? "run_id = $2::uuid and ($3::text is null or step_index > $3::text::integer)"
    : "$2::text is null and ($3::text is null or tool_call_id < $3::text::uuid)"
  const rows = await tx.query<ToolCallRow>(
    `select ${listColumns}, '{}' as "plannedArguments", null as arguments, null as result,
       null as error
     from tool_calls
     where workspace_id = $1::uuid and ${scope}
       and ($4::text[] = '{}' or state = any ($4::text[]))
       and ($5::text = '' or tool = $5::text)
     order by ${ofRun ? "step_index" : "tool_call_id desc"} limit $6::integer`,
    [
      workspaceId,
      ofRun ? filter.runId : null,
      page.after ?? null,
      filter.states,
      filter.tool,
      page.limit,
    ],
  )
  return rows.map(toRecord)
}

function toRecord(row: ToolCallRow): ToolCallRecord {
  return {
    ...row,
    policyDenial: row.policyDenial === null ? undefined : (JSON.parse(row.policyDenial) as Denial),
    plannedArguments: JSON.parse(row.plannedArguments) as JsonObject,
    arguments: row.arguments === null ? undefined : (JSON.parse(row.arguments) as JsonObject),
    result: row.result === null ? undefined : (JSON.parse(row.result) as JsonObject),
    error: row.error === null ? undefined : (JSON.parse(row.error) as ToolFailure),
    argumentsDigest: row.argumentsDigest ?? undefined,
    verdict: row.verdict ?? undefined,
    moderationOutcome: row.moderationOutcome ?? undefined,
    approvalId: row.approvalId ?? undefined,
    startTime: row.startTime ?? undefined,
    endTime: row.endTime ?? undefined,
  }
}
