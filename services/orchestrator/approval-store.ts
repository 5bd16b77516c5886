import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../mesh/database.ts"
import type { ApprovalState } from "./approval.ts"
import type { ApprovalRecord } from "./snapshot.ts"

const listColumns = `
  workspace_id as "workspaceId", approval_id as "approvalId", run_id as "runId",
  step_index as "stepIndex", tool_call_id as "toolCallId", tool, tool_version as "toolVersion",
  definition_digest as "definitionDigest", risk_class as "riskClass", title, verdict,
  policy_version as "policyVersion", matched_rules as "matchedRules",
  requester_id as "requesterId", digest, state, approver_role as "approverRole",
  distinct_from_requester as "isDistinctFromRequester", decider_id as "deciderId", comment,
  expire_time as "expireTime", decide_time as "decideTime", consume_time as "consumeTime",
  create_time as "createTime"`

/** The columns of a whole approval, by the names of its record. */
export const approvalColumns = `${listColumns}, arguments`

/** An approval as it is read. */
export interface ApprovalRow
  extends Omit<ApprovalRecord, "arguments" | "decideTime" | "consumeTime"> {
  readonly arguments: string
  readonly decideTime: Date | null
  readonly consumeTime: Date | null
}

export async function findApproval(
  tx: Tx,
  workspaceId: string,
  approvalId: string,
): Promise<ApprovalRecord | undefined> {
  const row = await tx.maybe<ApprovalRow>(
    `select ${approvalColumns} from approvals
     where workspace_id = $1::uuid and approval_id = $2::uuid`,
    [workspaceId, approvalId],
  )
  return row === undefined ? undefined : toApprovalRecord(row)
}

export interface ApprovalFilter {
  readonly runId: string
  readonly states: readonly ApprovalState[]
}

/** Approvals newest first, without arguments. */
export async function listApprovals(
  tx: Tx,
  workspaceId: string,
  filter: ApprovalFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly ApprovalRecord[]> {
  const rows = await tx.query<ApprovalRow>(
    `select ${listColumns}, '{}' as arguments from approvals
     where workspace_id = $1::uuid
       and ($2::uuid is null or run_id = $2::uuid)
       and ($3::text[] = '{}' or state = any ($3::text[]))
       and ($4::uuid is null or approval_id < $4::uuid)
     order by approval_id desc limit $5::integer`,
    [
      workspaceId,
      filter.runId === "" ? null : filter.runId,
      filter.states,
      page.after ?? null,
      page.limit,
    ],
  )
  return rows.map(toApprovalRecord)
}

export function toApprovalRecord(row: ApprovalRow): ApprovalRecord {
  return {
    ...row,
    arguments: JSON.parse(row.arguments) as JsonObject,
    decideTime: row.decideTime ?? undefined,
    consumeTime: row.consumeTime ?? undefined,
  }
}
