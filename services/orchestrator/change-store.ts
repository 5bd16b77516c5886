/**
 * Stores changes: one statement for all that are due at the same moment, whatever they consist of.
 *
 * 1. Every part of a change hangs on the update of its run, which asks for its epoch and its revision
 *    and, where an approval is used up, for a valid, unused yes to exactly that digest, given under
 *    the rules that are in force and by no delegation that is not. Where it updates nothing, nothing
 *    of the change is stored, and its caller is told that it is stale.
 * 2. Whatever belongs to a run moves its revision. A part that still finds fewer rows than it changes
 *    is a fault, which undoes the statement; the group then stores the others without it.
 * 3. Rows are locked in one order: runs by workspace and id, what belongs to them, heads of journals
 *    by workspace.
 * 4. The worker's role holds: only rows of the workspaces that the changes name are reached.
 */
import { type Database, isCheckViolation, type Statement } from "../../mesh/database.ts"
import { createGroup } from "../../mesh/group.ts"
import { askSql } from "./asked-sql.ts"
import { chargeSql, usageLimit } from "./budget-store.ts"
import type { Change } from "./change.ts"
import {
  type Answer,
  answerRow,
  askedRow,
  Content,
  callRow,
  givenRow,
  movedRow,
  runRow,
  verdictRow,
} from "./change-rows.ts"
import { appendSql, requireHeads } from "./journal-sql.ts"

/** What became of a change. */
export type Stored =
  | {
      readonly kind: "stored"
      /** When, by the clock of the database. */
      readonly at: Date
    }
  /** The run is not as the change found it: read it anew and decide again. */
  | { readonly kind: "stale" }
  /** It admits a call that has no room in its workspace's budget. */
  | { readonly kind: "exhausted" }

export interface ChangeStore extends AsyncDisposable {
  /**
   * Stores a change, and with it the answer to the request that led to it. A request whose id is
   * known already fails the change with a unique violation.
   */
  store(change: Change, answer?: Answer): Promise<Stored>
}

export interface Item {
  readonly change: Change
  readonly answer: Answer | undefined
}

/** What the statement answers: which changes were stored, and when. */
interface Reply {
  readonly stored: readonly number[]
  readonly time: Date
}

/** As many as `runwarden.violated` and the bits of `kept` can tell apart. */
export const maxChanges = 256

/** `maxOpenApprovals` may wait in a workspace; what would ask one more is stale. */
export function createChangeStore(database: Database, maxOpenApprovals: number): ChangeStore {
  const group = createGroup<Item, Stored>({
    name: "changes",
    maxItems: maxChanges,
    run: (items) => storeChanges(database, items, maxOpenApprovals),
  })
  return {
    store: (change, answer) =>
      group.add({ change, answer }).catch((error: unknown): Stored => {
        if (isCheckViolation(error, "approvals_open_limit")) return { kind: "stale" }
        if (isCheckViolation(error, usageLimit)) return { kind: "exhausted" }
        throw error
      }),
    [Symbol.asyncDispose]: () => group[Symbol.asyncDispose](),
  }
}

/** Stores changes, in a transaction of their own or in that of the `database` that is handed in. */
export async function storeChanges(
  database: Pick<Database, "batch">,
  items: readonly Item[],
  maxOpenApprovals: number,
): Promise<readonly Stored[]> {
  const sorted = items.toSorted((one, other) => compareRuns(one.change.run, other.change.run))
  const content = new Content()
  const rows = {
    runs: sorted.map(({ change }, n) => runRow(n, change, content)),
    verdicts: sorted.flatMap(({ change }, n) =>
      change.verdicts.map((verdict) => verdictRow(n, change, verdict)),
    ),
    calls: sorted.flatMap(({ change }, n) => change.calls.map((call) => callRow(n, change, call))),
    asked: sorted.flatMap(({ change }, n) =>
      change.approvals
        .filter((approval) => isNew(change, approval))
        .map((approval) => askedRow(n, change, approval, maxOpenApprovals)),
    ),
    moved: sorted.flatMap(({ change }, n) =>
      change.approvals
        .filter((approval) => !isNew(change, approval))
        .map((approval) => movedRow(n, change, approval)),
    ),
    given: sorted.flatMap(({ change }, n) =>
      change.answers.map((answer) => givenRow(n, change, answer)),
    ),
    answers: sorted.flatMap(({ answer }, n) =>
      answer === undefined ? [] : [answerRow(n, answer, content)],
    ),
  }
  const workspaceIds = [...new Set(rows.runs.map((row) => row.workspace_id))]
  const { runs, verdicts, calls, asked, moved, given, answers } = rows
  const before = [runs, verdicts, calls, asked, moved, answers].map((each) => JSON.stringify(each))
  const values = [...before, content.concat(), JSON.stringify(given)]
  const [reply] = await database.batch<Reply>(workspaceIds, statement, values)
  if (reply === undefined) throw new Error("the statement answers one row")
  const stored = new Set(reply.stored.map((n) => sorted[n]))
  const at: Stored = { kind: "stored", at: reply.time }
  return items.map((item) => (stored.has(item) ? at : { kind: "stale" }))
}

/** The order in which rows of runs are locked. */
export function compareRuns(one: RunKey, other: RunKey): number {
  return compare(one.workspaceId, other.workspaceId) || compare(one.runId, other.runId)
}

interface RunKey {
  readonly workspaceId: string
  readonly runId: string
}

function compare(one: string, other: string): number {
  if (one === other) return 0
  return one < other ? -1 : 1
}

function isNew({ before }: Change, { approvalId }: Change["approvals"][number]): boolean {
  return before.approval?.approvalId !== approvalId
}

const statement: Statement = {
  name: "store-changes",
  text: `
  with item as materialized (
    select * from json_to_recordset($1::json) as i (n integer, workspace_id uuid, run_id uuid,
      epoch bigint, revision bigint, state text, reason text, policy_denial text,
      moderation_outcome text, step_index integer, requester_role smallint, calls integer,
      entries integer,
      first_byte integer, bytes integer, claim text, due_time timestamptz, owner uuid,
      lease_ms double precision, approval_id uuid, approval_digest text)
  ), run as (
    update runs r set state = coalesce(i.state, r.state), reason = coalesce(i.reason, r.reason),
      policy_denial = coalesce(i.policy_denial, r.policy_denial),
      moderation_outcome = coalesce(i.moderation_outcome, r.moderation_outcome),
      step_index = coalesce(i.step_index, r.step_index),
      requester_role = coalesce(i.requester_role, r.requester_role),
      used_calls = r.used_calls + coalesce(i.calls, 0),
      epoch = r.epoch + (i.claim is not distinct from 'take')::integer,
      event_count = r.event_count + i.entries, revision = r.revision + 1, update_time = now(),
      end_time = case when i.state in ('succeeded', 'failed', 'cancelled', 'expired')
        then coalesce(r.end_time, now()) else r.end_time end
    from item i
    where r.workspace_id = i.workspace_id and r.run_id = i.run_id
      and r.epoch = i.epoch and r.revision = i.revision
      and (i.approval_id is null or exists (
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
              and (d.revoke_time is not null or d.expire_time <= now())))))
    returning i.n, r.workspace_id, r.run_id, r.epoch, r.event_count - i.entries + 1 as first_sequence,
      i.entries, i.first_byte, i.bytes, i.claim, i.due_time, i.owner, i.lease_ms, i.approval_id,
      i.calls
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
  ), judged_again as (
    update verdicts t set digest = v.digest, verdict = v.verdict, decision_id = v.decision_id,
      policy_version = v.policy_version, create_time = now()
    from verdict v
    where not v.is_new and t.workspace_id = v.workspace_id and t.run_id = v.run_id
      and t.step_index = v.step_index
    returning 1
  ), consumed as (
    update approvals t set consume_time = now() from run r
    where t.workspace_id = r.workspace_id and t.approval_id = r.approval_id
    returning 1
  ), call as materialized (
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
  ), move as materialized (
    select * from json_to_recordset($5::json) as a (n integer, workspace_id uuid,
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
    from json_to_recordset($8::json) as g (n integer, workspace_id uuid, approval_id uuid,
      answer_index smallint, approval_number smallint, actor_id text, role smallint, answer text,
      comment text, delegation_id uuid, delegator_id text, break_glass_reason text)
    join approvals a on a.workspace_id = g.workspace_id and a.approval_id = g.approval_id
    where get_bit((select bits from kept), g.n) = 1
  ), asked as (
    -- After the others have moved: at most one approval of a call is pending.
    ${askSql("$4", "get_bit((select bits from kept), n) = 1 and (select count(*) from moved) >= 0")}
  ), repeatable as (
    insert into requests (workspace_id, request_id, method, request_sha256, response)
    select workspace_id, request_id, method, request_sha256,
      substring($7::bytea from first_byte for bytes)
    from json_to_recordset($6::json) as q (n integer, workspace_id uuid, request_id uuid,
      method text, request_sha256 text, first_byte integer, bytes integer)
    where get_bit((select bits from kept), n) = 1
  ), released as (
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
  ), dropped as (
    delete from run_claims t using run r
    where r.claim = 'drop' and t.workspace_id = r.workspace_id and t.run_id = r.run_id
  ), ${appendSql("run", { before: "called", content: "$7" })}, ${chargeSql("run")}
  select array(select n from run) as stored, now() as time, case
    when (select count(*) from called) <> (select count(*) from call)
      then runwarden.violated('a call is not as its run says')
    when (select count(*) from judged_again) <> (select count(*) from verdict where not is_new)
      then runwarden.violated('a verdict is missing')
    when (select count(*) from consumed) <> (select count(*) from run where approval_id is not null)
      then runwarden.violated('an approval is not as its run says')
    when (select count(*) from moved) <> (select count(*) from move)
      then runwarden.violated('an approval is not as its run says')
    ${requireHeads("run")} end as checked`,
}
