import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../../mesh/database.ts"
import type { MaxUsage } from "../budget/budget.ts"
import type { Denial, ToolCallRecord, ToolFailure } from "./snapshot.ts"
import type { ToolCallState } from "./tool-call.ts"

const listColumns = `
  workspace_id as "workspaceId", run_id as "runId", step_index as "stepIndex",
  tool_call_id as "toolCallId", idempotency_key as "idempotencyKey", tool,
  tool_version as "toolVersion", definition_digest as "definitionDigest",
  risk_class as "riskClass", effect, title, on_error as "onError", timeout_ms as "timeoutMs",
  max_usage as "maxUsage", state, reason,
  policy_denial as "policyDenial", arguments_digest as "argumentsDigest", provenance, verdict,
  decision_id as "decisionId", policy_version as "policyVersion", matched_rules as "matchedRules",
  moderation_outcome as "moderationOutcome", approval_id as "approvalId", attempts,
  is_withheld as "isWithheld", settler_id as "settlerId", trace_id as "traceId", revision,
  create_time as "createTime", update_time as "updateTime", start_time as "startTime",
  end_time as "endTime"`

/** The columns of a whole call, by the names of its record. */
export const toolCallColumns = `${listColumns}, planned_arguments as "plannedArguments",
  is_literal as "isLiteral", arguments, result, error`

type Nullable<T> = { readonly [Key in keyof T]: undefined extends T[Key] ? T[Key] | null : T[Key] }

/** A call as it is read. */
export interface ToolCallRow
  extends Omit<
    Nullable<ToolCallRecord>,
    | "plannedDigest"
    | "maxUsage"
    | "policyDenial"
    | "plannedArguments"
    | "arguments"
    | "result"
    | "error"
  > {
  readonly maxUsage: string | null
  readonly policyDenial: string | null
  readonly plannedArguments: string
  readonly arguments: string | null
  readonly result: string | null
  readonly error: string | null
}

export async function findToolCall(
  tx: Tx,
  workspaceId: string,
  toolCallId: string,
): Promise<ToolCallRecord | undefined> {
  const row = await tx.maybe<ToolCallRow>(
    `select ${toolCallColumns} from tool_calls
     where workspace_id = $1::uuid and tool_call_id = $2::uuid`,
    [workspaceId, toolCallId],
  )
  return row === undefined ? undefined : toToolCallRecord(row)
}

/** No run has this id: all come before it. */
const lastId = "ffffffff-ffff-ffff-ffff-ffffffffffff"

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
  page: { readonly limit: number; readonly after: readonly string[] | undefined },
): Promise<readonly ToolCallRecord[]> {
  const ofRun = filter.runId !== ""
  const [after, afterStep] = page.after ?? []
  const scope = ofRun
    ? "run_id = $2::uuid and ($3::integer is null or step_index > $3::integer)"
    : `(run_id, step_index) < (coalesce($2::uuid, '${lastId}'), coalesce($3::integer, 0))`
  const rows = await tx.query<ToolCallRow>(
    `select ${listColumns}, '{}' as "plannedArguments", false as "isLiteral", null as arguments,
       null as result, null as error
     from tool_calls
     where workspace_id = $1::uuid and ${scope}
       and ($4::text[] = '{}' or state = any ($4::text[]))
       and ($5::text = '' or tool = $5::text)
     order by ${ofRun ? "step_index" : "run_id desc, step_index desc"} limit $6::integer`,
    [
      workspaceId,
      ofRun ? filter.runId : (after ?? null),
      afterStep ?? null,
      filter.states,
      filter.tool,
      page.limit,
    ],
  )
  return rows.map(toToolCallRecord)
}

export function toToolCallRecord(row: ToolCallRow): ToolCallRecord {
  const plannedArguments = JSON.parse(row.plannedArguments) as JsonObject
  // What is literal is stored once; it is the arguments from when it was judged.
  const isPlanned = row.isLiteral && row.argumentsDigest !== null
  const stored = row.arguments === null ? undefined : (JSON.parse(row.arguments) as JsonObject)
  return {
    ...row,
    policyDenial: row.policyDenial === null ? undefined : (JSON.parse(row.policyDenial) as Denial),
    plannedArguments,
    arguments: isPlanned ? plannedArguments : stored,
    result: row.result === null ? undefined : (JSON.parse(row.result) as JsonObject),
    error: row.error === null ? undefined : (JSON.parse(row.error) as ToolFailure),
    argumentsDigest: row.argumentsDigest ?? undefined,
    verdict: row.verdict ?? undefined,
    moderationOutcome: row.moderationOutcome ?? undefined,
    approvalId: row.approvalId ?? undefined,
    startTime: row.startTime ?? undefined,
    timeoutMs: row.timeoutMs ?? undefined,
    maxUsage: row.maxUsage === null ? undefined : (JSON.parse(row.maxUsage) as MaxUsage),
    endTime: row.endTime ?? undefined,
  }
}
