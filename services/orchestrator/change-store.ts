/**
 * Stores a change: one statement for everything but telemetry, whatever the change consists of, so
 * that concurrent runs' changes can be given to it together.
 *
 * 1. Every part hangs on the update of the run, which asks for its epoch and its state. Where that
 *    updates nothing, nothing is stored.
 * 2. The run's row is locked before everything that belongs to the run.
 * 3. A part that finds fewer rows than it changes undoes the whole.
 */
import type { Tx } from "../../mesh/database.ts"
import { recordEvents } from "../../mesh/events.ts"
import type { Change } from "./change.ts"
import type { ToolCallRecord } from "./snapshot.ts"

/** The run, a call or an approval is not as the change found it: read anew and decide again. */
export class StaleChange extends Error {
  readonly part: "run" | "calls" | "approvals" | "consumption"
  constructor(part: StaleChange["part"]) {
    super(`the stored ${part} differ from what the change started from`)
    this.part = part
  }
}

interface Counts {
  readonly runs: number
  readonly calls: number
  readonly approvals: number
  readonly consumed: number
}

/** Stores a change in the transaction. Throws StaleChange where it no longer applies. */
export async function storeChange(tx: Tx, change: Change): Promise<void> {
  const { run, before, calls, approvals, consumption, claim } = change
  const counts = await tx.one<Counts>(sql, [
    run.workspaceId,
    run.runId,
    before.run.epoch,
    before.run.state,
    run.state,
    run.reason,
    run.policyDenial === undefined ? null : JSON.stringify(run.policyDenial),
    run.moderationOutcome ?? null,
    run.stepIndex,
    run.requesterRole,
    change.entries,
    JSON.stringify(change.verdicts.map(verdictRow)),
    JSON.stringify(calls.map((call) => callRow(call, before.calls[call.stepIndex], change))),
    JSON.stringify(approvals.map((approval) => approvalRow(approval, change))),
    consumption?.approvalId ?? null,
    consumption?.digest ?? null,
    claim.kind,
    claim.kind === "release" ? claim.dueAt : null,
  ])
  if (counts.runs !== 1) throw new StaleChange("run")
  if (counts.consumed !== (consumption === undefined ? 0 : 1)) throw new StaleChange("consumption")
  if (counts.calls !== calls.length) throw new StaleChange("calls")
  if (counts.approvals !== approvals.length) throw new StaleChange("approvals")
  if (change.events.length > 0) await recordEvents(tx, change.events)
}

function verdictRow({ stepIndex, judgement }: Change["verdicts"][number]) {
  return {
    step_index: stepIndex,
    digest: judgement.digest,
    verdict: judgement.verdict,
    decision_id: judgement.decisionId,
    policy_version: judgement.policyVersion,
  }
}

function callRow(call: ToolCallRecord, before: ToolCallRecord | undefined, change: Change) {
  const isAdmitted = call.state === "executing" && before?.state !== "executing"
  const used = isAdmitted ? change.consumption : undefined
  return {
    step_index: call.stepIndex,
    from_state: before?.state,
    state: call.state,
    reason: call.reason,
    policy_denial: call.policyDenial === undefined ? null : JSON.stringify(call.policyDenial),
    arguments: call.arguments === undefined ? null : JSON.stringify(call.arguments),
    arguments_digest: call.argumentsDigest ?? null,
    provenance: call.provenance,
    verdict: call.verdict ?? null,
    decision_id: call.decisionId,
    policy_version: call.policyVersion,
    matched_rules: call.matchedRules,
    moderation_outcome: call.moderationOutcome ?? null,
    approval_id: call.approvalId ?? null,
    approval_digest: used?.digest ?? null,
    attempts: call.attempts,
    result: call.result === undefined ? null : JSON.stringify(call.result),
    error: call.error === undefined ? null : JSON.stringify(call.error),
    is_withheld: call.isWithheld,
    settler_id: call.settlerId,
    trace_id: call.traceId,
  }
}

function approvalRow(approval: Change["approvals"][number], change: Change) {
  const known = change.before.approval
  return {
    approval_id: approval.approvalId,
    is_new: known?.approvalId !== approval.approvalId,
    step_index: approval.stepIndex,
    tool_call_id: approval.toolCallId,
    tool: approval.tool,
    tool_version: approval.toolVersion,
    definition_digest: approval.definitionDigest,
    risk_class: approval.riskClass,
    title: approval.title,
    arguments: JSON.stringify(approval.arguments),
    verdict: approval.verdict,
    policy_version: approval.policyVersion,
    matched_rules: approval.matchedRules,
    requester_id: approval.requesterId,
    digest: approval.digest,
    state: approval.state,
    approver_role: approval.approverRole,
    distinct_from_requester: approval.isDistinctFromRequester,
    decider_id: approval.deciderId,
    comment: approval.comment,
    expire_time: approval.expireTime,
  }
}

const sql = `
  with run as (
    update runs set state = $5::text, reason = $6::text, policy_denial = $7::text,
      moderation_outcome = $8::text, step_index = $9::integer, requester_role = $10::smallint,
      event_count = event_count + cardinality($11::bytea[]), revision = revision + 1,
      update_time = now(),
      end_time = case when $5::text in ('succeeded', 'failed', 'cancelled', 'expired')
        then coalesce(end_time, now()) end
    where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint
      and state = $4::text
    returning event_count - cardinality($11::bytea[]) as base
  ), listed as (
    insert into run_events (workspace_id, run_id, sequence, payload)
    select $1::uuid, $2::uuid, run.base + entry.position, entry.payload
    from run, unnest($11::bytea[]) with ordinality as entry (payload, position)
  ), judged as (
    insert into verdicts (workspace_id, run_id, step_index, digest, verdict, decision_id,
      policy_version)
    select $1::uuid, $2::uuid, v.step_index, v.digest, v.verdict, v.decision_id, v.policy_version
    from run, jsonb_to_recordset($12::jsonb) as v (step_index integer, digest text, verdict text,
      decision_id text, policy_version text)
    on conflict (workspace_id, run_id, step_index, digest) do update
      set verdict = excluded.verdict, decision_id = excluded.decision_id,
        policy_version = excluded.policy_version, create_time = now()
  ), consumed as (
    update approvals t set consume_time = now() from run
    where t.workspace_id = $1::uuid and t.approval_id = $15::uuid and t.run_id = $2::uuid
      and t.digest = $16::text and t.state = 'approved' and t.consume_time is null
      and t.expire_time > now()
    returning t.approval_id
  ), called as (
    update tool_calls t set state = c.state, reason = c.reason, policy_denial = c.policy_denial,
      arguments = c.arguments, arguments_digest = c.arguments_digest, provenance = c.provenance,
      verdict = c.verdict, decision_id = c.decision_id, policy_version = c.policy_version,
      matched_rules = c.matched_rules, moderation_outcome = c.moderation_outcome,
      approval_id = c.approval_id,
      approval_digest = coalesce(c.approval_digest, t.approval_digest),
      approval_consumed = case when c.approval_digest is not null then true
        else t.approval_consumed end,
      attempts = c.attempts, result = c.result, error = c.error, is_withheld = c.is_withheld,
      settler_id = c.settler_id, trace_id = c.trace_id, revision = revision + 1,
      update_time = now(),
      start_time = coalesce(t.start_time, case when c.state = 'executing' then now() end),
      end_time = coalesce(t.end_time, case when c.state in ('succeeded', 'failed', 'denied',
        'expired', 'cancelled') then now() end)
    from run, jsonb_to_recordset($13::jsonb) as c (step_index integer, from_state text, state text,
      reason text, policy_denial text, arguments text, arguments_digest text,
      provenance integer[], verdict text, decision_id text, policy_version text,
      matched_rules text[], moderation_outcome text, approval_id uuid, approval_digest text,
      attempts integer, result text, error text, is_withheld boolean, settler_id text,
      trace_id text)
    where t.workspace_id = $1::uuid and t.run_id = $2::uuid and t.step_index = c.step_index
      and t.state = c.from_state and ($15::uuid is null or exists (select from consumed))
    returning t.step_index
  ), answered as (
    update approvals t set state = a.state, decider_id = a.decider_id, comment = a.comment,
      decide_time = now()
    from run, jsonb_to_recordset($14::jsonb) as a (approval_id uuid, is_new boolean, state text,
      decider_id text, comment text)
    where not a.is_new and t.workspace_id = $1::uuid and t.approval_id = a.approval_id
      and t.state = 'pending'
    returning t.approval_id
  ), asked as (
    insert into approvals (workspace_id, approval_id, run_id, step_index, tool_call_id, tool,
      tool_version, definition_digest, risk_class, title, arguments, verdict, policy_version,
      matched_rules, requester_id, digest, state, approver_role, distinct_from_requester,
      expire_time)
    select $1::uuid, a.approval_id, $2::uuid, a.step_index, a.tool_call_id, a.tool, a.tool_version,
      a.definition_digest, a.risk_class, a.title, a.arguments, a.verdict, a.policy_version,
      a.matched_rules, a.requester_id, a.digest, a.state, a.approver_role,
      a.distinct_from_requester, a.expire_time
    from run, jsonb_to_recordset($14::jsonb) as a (approval_id uuid, is_new boolean,
      step_index integer, tool_call_id uuid, tool text, tool_version text, definition_digest text,
      risk_class text, title text, arguments text, verdict text, policy_version text,
      matched_rules text[], requester_id text, digest text, state text, approver_role smallint,
      distinct_from_requester boolean, expire_time timestamptz)
    where a.is_new
    returning approval_id
  ), released as (
    update run_claims t set owner = null, crashes = 0,
      due_time = greatest($18::timestamptz, now()) from run
    where $17::text = 'release' and t.workspace_id = $1::uuid and t.run_id = $2::uuid
  ), flagged as (
    update run_claims t set is_cancelled = true from run
    where $17::text = 'cancel' and t.workspace_id = $1::uuid and t.run_id = $2::uuid
  ), dropped as (
    delete from run_claims t using run
    where $17::text = 'drop' and t.workspace_id = $1::uuid and t.run_id = $2::uuid
  )
  select (select count(*) from run) as runs, (select count(*) from called) as calls,
    (select count(*) from answered) + (select count(*) from asked) as approvals,
    (select count(*) from consumed) as consumed`
