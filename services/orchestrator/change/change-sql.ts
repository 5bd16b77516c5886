/**
 * The statement that stores changes, put together from the parts that they need. What every run goes
 * through is always there; what only some changes touch is there where one of them does. Parts that
 * find nothing to do would be a third of what a statement costs that stores one change.
 */
import type { Statement } from "../../../mesh/database.ts"
import { askSql } from "../approval/asked-sql.ts"
import { chargeSql } from "../budget/charge-sql.ts"
import { appendSql, requireHeads } from "../journal/journal-sql.ts"

/** As many as `runwarden.violated` and the bits of `kept` can tell apart. */
export const maxChanges = 256

/** What some changes touch beside runs, calls, new verdicts and journals. */
export interface ChangeParts {
  /** Approvals that are used, asked for, answered or ended. */
  readonly approvals: boolean
  /** Verdicts that take the place of earlier ones. */
  readonly rejudgements: boolean
  /** Claims that are given up, taken or told to stop. Those of ended runs always go. */
  readonly claims: boolean
  /** Answers that are kept for requests that come again. */
  readonly answers: boolean
  /** Calls that take what they may use up, or give it back. */
  readonly reservations: boolean
}

const statements = new Map<string, Statement>()

/**
 * Takes as JSON the rows of runs, of verdicts and of calls, then the content; where approvals take
 * part the rows asked, moved and given; where answers do, theirs.
 */
export function changeStatement(parts: ChangeParts): Statement {
  const named = Object.entries(parts).flatMap(([part, isThere]) => (isThere ? [part] : []))
  const name = ["store-changes", ...named].join("-")
  const known = statements.get(name)
  if (known !== undefined) return known
  const statement = { name, text: textOf(parts) }
  statements.set(name, statement)
  return statement
}

function textOf(parts: ChangeParts): string {
  const { approvals, rejudgements, claims, answers, reservations } = parts
  return `
  with item as materialized (
    select * from json_to_recordset($1::json) as i (n integer, workspace_id uuid, run_id uuid,
      epoch bigint, revision bigint, state text, reason text, policy_denial text,
      moderation_outcome text, step_index integer, requester_role smallint, calls integer,
      input_tokens bigint, output_tokens bigint, cost_micros bigint, payload_bytes bigint, entries integer,
      first_byte integer, bytes integer, claim text, due_time timestamptz, owner uuid,
      lease_ms double precision, approval_id uuid, approval_digest text${reservations ? reservationColumns : ""})
  ), run as (
    update runs r set state = coalesce(i.state, r.state), reason = coalesce(i.reason, r.reason),
      policy_denial = coalesce(i.policy_denial, r.policy_denial),
      moderation_outcome = coalesce(i.moderation_outcome, r.moderation_outcome),
      step_index = coalesce(i.step_index, r.step_index),
      requester_role = coalesce(i.requester_role, r.requester_role),
      used_calls = r.used_calls + coalesce(i.calls, 0),
      used_input_tokens = r.used_input_tokens + coalesce(i.input_tokens, 0),
      used_output_tokens = r.used_output_tokens + coalesce(i.output_tokens, 0),
      used_cost_micros = r.used_cost_micros + coalesce(i.cost_micros, 0),
      payload_bytes = r.payload_bytes + coalesce(i.payload_bytes, 0),
      epoch = r.epoch + (i.claim is not distinct from 'take')::integer,
      event_count = r.event_count + i.entries, revision = r.revision + 1, update_time = now(),
      end_time = case when i.state in ('succeeded', 'failed', 'cancelled', 'expired')
        then coalesce(r.end_time, now()) else r.end_time end
    from item i
    where r.workspace_id = i.workspace_id and r.run_id = i.run_id
      and r.epoch = i.epoch and r.revision = i.revision ${approvals ? usable : ""}
    returning i.n, r.workspace_id, r.run_id, r.epoch, r.event_count - i.entries + 1 as first_sequence,
      i.entries, i.first_byte, i.bytes, i.claim, i.due_time, i.owner, i.lease_ms, i.approval_id,
      i.calls, coalesce(i.input_tokens, 0) + coalesce(i.output_tokens, 0) as tokens, i.cost_micros${reservations ? reservationValues : ""}
  ), kept as materialized (
    -- A bit per change that was stored: cheaper to ask than a join.
    select coalesce(bit_or(set_bit(b'0'::bit(${maxChanges}), n, 1)), b'0'::bit(${maxChanges})) as bits
    from run
  ), verdict as materialized (
    select * from json_to_recordset($2::json) as v (n integer, workspace_id uuid, run_id uuid,
      step_index integer, is_new boolean, digest text, verdict text, decision_id text,
      policy_version text)
    where get_bit((select bits from kept), n) = 1
  ), judged as (
    insert into verdicts (workspace_id, run_id, step_index, digest, verdict, decision_id,
      policy_version)
    select workspace_id, run_id, step_index, digest, verdict, decision_id, policy_version
    from verdict where is_new
  ), ${rejudgements ? rejudgeSql : ""}call as materialized (
    select * from json_to_recordset($3::json) as c (n integer, workspace_id uuid, run_id uuid,
      step_index integer, from_state text, state text, reason text, policy_denial text,
      arguments text, arguments_digest text, provenance integer[], verdict text, decision_id text,
      policy_version text, matched_rules text[], moderation_outcome text, approval_id uuid,
      approval_digest text, attempts integer, result text, error text, is_withheld boolean,
      settler_id text, trace_id text)
    where get_bit((select bits from kept), n) = 1
  ), called as (
    update tool_calls t set state = c.state, reason = coalesce(c.reason, t.reason),
      policy_denial = coalesce(c.policy_denial, t.policy_denial),
      arguments = coalesce(c.arguments, t.arguments),
      arguments_digest = coalesce(c.arguments_digest, t.arguments_digest),
      provenance = coalesce(c.provenance, t.provenance), verdict = coalesce(c.verdict, t.verdict),
      decision_id = coalesce(c.decision_id, t.decision_id),
      policy_version = coalesce(c.policy_version, t.policy_version),
      matched_rules = coalesce(c.matched_rules, t.matched_rules),
      moderation_outcome = coalesce(c.moderation_outcome, t.moderation_outcome),
      approval_id = coalesce(c.approval_id, t.approval_id),
      approval_digest = coalesce(c.approval_digest, t.approval_digest),
      approval_consumed = case when c.approval_digest is not null then true
        else t.approval_consumed end,
      attempts = coalesce(c.attempts, t.attempts), result = coalesce(c.result, t.result),
      error = coalesce(c.error, t.error), is_withheld = coalesce(c.is_withheld, t.is_withheld),
      settler_id = coalesce(c.settler_id, t.settler_id),
      trace_id = coalesce(c.trace_id, t.trace_id), revision = t.revision + 1, update_time = now(),
      start_time = coalesce(t.start_time, case when c.state = 'executing' then now() end),
      end_time = coalesce(t.end_time, case when c.state in ('succeeded', 'failed', 'denied',
        'expired', 'cancelled') then now() end)
    from call c
    where t.workspace_id = c.workspace_id and t.run_id = c.run_id and t.step_index = c.step_index
      and t.state = c.from_state
    returning 1
  ), ${approvals ? approvalSql : ""}${answers ? answerSql(approvals ? "$8" : "$5") : ""}${claims ? claimSql : ""}dropped as (
    delete from run_claims t using run r
    where r.claim = 'drop' and t.workspace_id = r.workspace_id and t.run_id = r.run_id
  ), ${appendSql("run", { before: "called", content: "$4" })}, ${chargeSql("run", reservations)}
  select array(select n from run) as stored, now() as time, case
    when (select count(*) from called) <> (select count(*) from call)
      then runwarden.violated('a call is not as its run says')
    ${rejudgements ? requireRejudged : ""}
    ${approvals ? requireApprovals : ""}
    ${requireHeads("run")} end as checked`
}

const reservationColumns = `, reserve_tokens bigint, reserve_cost bigint,
      release_step integer, release_tokens bigint, release_cost bigint`
const reservationValues = `, i.reserve_tokens, i.reserve_cost, i.release_step, i.release_tokens,
      i.release_cost`

/** An approval that is used up must be a yes to exactly this, under rules and delegations in force. */
const usable = `and (i.approval_id is null or exists (
        select from approvals a
        where a.workspace_id = i.workspace_id and a.approval_id = i.approval_id
          and a.run_id = i.run_id and a.digest = i.approval_digest and a.state = 'approved'
          and a.consume_time is null and a.expire_time > now()
          and a.rule_version = coalesce((select b.rule_version from approval_rule_books b
            where b.workspace_id = i.workspace_id), 'default@1')
          and (a.is_glass_broken or not exists (
            select from approval_answers x join delegations d
              on d.workspace_id = x.workspace_id and d.delegation_id = x.delegation_id
            where x.workspace_id = i.workspace_id and x.approval_id = i.approval_id
              and (d.revoke_time is not null or d.expire_time <= now())))))`

const rejudgeSql = `judged_again as (
    update verdicts t set digest = v.digest, verdict = v.verdict, decision_id = v.decision_id,
      policy_version = v.policy_version, create_time = now()
    from verdict v
    where not v.is_new and t.workspace_id = v.workspace_id and t.run_id = v.run_id
      and t.step_index = v.step_index
    returning 1
  ), `

const requireRejudged = `when (select count(*) from judged_again)
      <> (select count(*) from verdict where not is_new)
      then runwarden.violated('a verdict is missing')`

const approvalSql = `consumed as (
    update approvals t set consume_time = now() from run r
    where t.workspace_id = r.workspace_id and t.approval_id = r.approval_id
    returning 1
  ), move as materialized (
    select * from json_to_recordset($6::json) as a (n integer, workspace_id uuid,
      approval_id uuid, from_state text, state text, approve_count smallint,
      is_glass_broken boolean, decider_id text, comment text)
    where get_bit((select bits from kept), n) = 1
  ), moved as (
    update approvals t set state = a.state, approve_count = a.approve_count,
      is_glass_broken = a.is_glass_broken, decider_id = a.decider_id, comment = a.comment,
      decide_time = coalesce(t.decide_time, case when a.state <> 'pending' then now() end)
    from move a
    where t.workspace_id = a.workspace_id and t.approval_id = a.approval_id
      and t.state = a.from_state and t.consume_time is null
    returning 1
  ), said as (
    -- The rule that an answer is given under is the approval's own, which never changes.
    insert into approval_answers (workspace_id, approval_id, answer_index, approval_number,
      actor_id, role, answer, comment, delegation_id, delegator_id, break_glass_reason,
      requester_id, distinct_from_requester, approver_role, allows_delegation, allows_break_glass)
    select g.workspace_id, g.approval_id, g.answer_index, g.approval_number, g.actor_id, g.role,
      g.answer, g.comment, g.delegation_id, g.delegator_id, g.break_glass_reason,
      a.requester_id, a.distinct_from_requester, a.approver_role, a.allows_delegation,
      a.allows_break_glass
    from json_to_recordset($7::json) as g (n integer, workspace_id uuid, approval_id uuid,
      answer_index smallint, approval_number smallint, actor_id text, role smallint, answer text,
      comment text, delegation_id uuid, delegator_id text, break_glass_reason text)
    join approvals a on a.workspace_id = g.workspace_id and a.approval_id = g.approval_id
    where get_bit((select bits from kept), g.n) = 1
  ), asked as (
    -- After the others have moved: at most one approval of a call is pending.
    ${askSql("$5", "get_bit((select bits from kept), n) = 1 and (select count(*) from moved) >= 0")}
  ), `

const requireApprovals = `when (select count(*) from consumed)
      <> (select count(*) from run where approval_id is not null)
      then runwarden.violated('an approval is not as its run says')
    when (select count(*) from moved) <> (select count(*) from move)
      then runwarden.violated('an approval is not as its run says')`

function answerSql(parameter: string): string {
  return `repeatable as (
    insert into requests (workspace_id, request_id, method, request_sha256, response)
    select workspace_id, request_id, method, request_sha256,
      substring($4::bytea from first_byte for bytes)
    from json_to_recordset(${parameter}::json) as q (n integer, workspace_id uuid, request_id uuid,
      method text, request_sha256 text, first_byte integer, bytes integer)
    where get_bit((select bits from kept), n) = 1
  ), `
}

const claimSql = `released as (
    update run_claims t set owner = null, crashes = 0, due_time = greatest(r.due_time, now())
    from run r
    where r.claim = 'release' and t.workspace_id = r.workspace_id and t.run_id = r.run_id
  ), taken as (
    update run_claims t set owner = r.owner, epoch = r.epoch, crashes = 0,
      due_time = now() + r.lease_ms * interval '1 millisecond'
    from run r
    where r.claim = 'take' and t.workspace_id = r.workspace_id and t.run_id = r.run_id
  ), flagged as (
    update run_claims t set is_cancelled = true from run r
    where r.claim = 'cancel' and t.workspace_id = r.workspace_id and t.run_id = r.run_id
  ), `
