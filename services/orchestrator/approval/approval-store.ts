import type { Tx } from "../../../mesh/database.ts"
import type { ApprovalRecord } from "../run/snapshot.ts"
import type { ApprovalState } from "./approval.ts"
import type { StoredAnswer } from "./approval-answer.ts"
import type { PinnedRule } from "./approval-rule.ts"

const listColumns = `
  workspace_id as "workspaceId", approval_id as "approvalId", run_id as "runId",
  step_index as "stepIndex", tool_call_id as "toolCallId", tool, tool_version as "toolVersion",
  definition_digest as "definitionDigest", risk_class as "riskClass", effect, title, verdict,
  policy_version as "policyVersion", matched_rules as "matchedRules",
  requester_id as "requesterId", digest, state, rule_version as "ruleVersion",
  rule_id as "ruleId", approver_role as "approverRole",
  distinct_from_requester as "isDistinctFromRequester", quorum,
  allows_delegation as "allowsDelegation", allows_break_glass as "allowsBreakGlass",
  approve_count as "approveCount", is_glass_broken as "isGlassBroken",
  decider_id as "deciderId", comment, expire_time as "expireTime", decide_time as "decideTime",
  consume_time as "consumeTime", create_time as "createTime"`

/** Approvals from before questions were kept as they were asked have at least their arguments. */
const wholeColumns = `
  coalesce(binding, '{"arguments":' || arguments || '}') as binding,
  (select coalesce(json_agg(given order by given.answer_index), '[]') from (
    select x.answer_index, x.actor_id as "actorId", x.role, x.answer, x.comment,
      x.delegation_id as "delegationId", x.delegator_id as "delegatorId",
      x.break_glass_reason as "breakGlassReason", x.create_time as "createTime",
      x.delegation_id is null or (d.revoke_time is null and d.expire_time > now()) as "isInForce"
    from approval_answers x left join delegations d
      on d.workspace_id = x.workspace_id and d.delegation_id = x.delegation_id
    where x.workspace_id = a.workspace_id and x.approval_id = a.approval_id) given) as answers`

/** The columns of a whole approval, by the names of its record; the table is called `a`. */
export const approvalColumns = `${listColumns}, ${wholeColumns}`

/** An approval as it is read. */
export interface ApprovalRow
  extends Omit<ApprovalRecord, "rule" | "answers" | "decideTime" | "consumeTime">,
    PinnedRule {
  readonly answers: readonly AnswerRow[]
  readonly decideTime: Date | null
  readonly consumeTime: Date | null
}

/** An answer as JSON. */
interface AnswerRow extends Omit<StoredAnswer, "delegation" | "breakGlassReason" | "createTime"> {
  readonly delegationId: string | null
  readonly delegatorId: string | null
  readonly breakGlassReason: string | null
  readonly createTime: string
}

export async function findApproval(
  tx: Tx,
  workspaceId: string,
  approvalId: string,
): Promise<ApprovalRecord | undefined> {
  const row = await tx.maybe<ApprovalRow>(
    `select ${approvalColumns} from approvals a
     where workspace_id = $1::uuid and approval_id = $2::uuid`,
    [workspaceId, approvalId],
  )
  return row === undefined ? undefined : toApprovalRecord(row)
}

export interface ApprovalFilter {
  readonly runId: string
  readonly states: readonly ApprovalState[]
}

/** Approvals newest first, without question and answers. */
export async function listApprovals(
  tx: Tx,
  workspaceId: string,
  filter: ApprovalFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly ApprovalRecord[]> {
  const rows = await tx.query<ApprovalRow>(
    `select ${listColumns}, '' as binding, '[]'::json as answers from approvals
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
  const { ruleVersion, ruleId, approverRole, isDistinctFromRequester, quorum } = row
  const { allowsDelegation, allowsBreakGlass, answers, ...others } = row
  return {
    ...others,
    rule: {
      ...{ ruleVersion, ruleId, approverRole, isDistinctFromRequester, quorum },
      ...{ allowsDelegation, allowsBreakGlass },
    },
    answers: answers.map(toAnswer),
    decideTime: row.decideTime ?? undefined,
    consumeTime: row.consumeTime ?? undefined,
  }
}

function toAnswer(row: AnswerRow): StoredAnswer {
  const { delegationId, delegatorId, breakGlassReason, createTime, ...others } = row
  return {
    ...others,
    delegation:
      delegationId === null || delegatorId === null ? undefined : { delegationId, delegatorId },
    breakGlassReason: breakGlassReason ?? undefined,
    createTime: new Date(createTime),
  }
}
