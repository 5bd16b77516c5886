/**
 * Stores new runs: one statement for all that are due at the same moment, each with its calls, its
 * claim, its answer, the beginning of its history and, where it has come that far already, the
 * admission of its first call.
 *
 * 1. A run is stored only where its request's id is new in the workspace. The index decides, not a
 *    read: of any number of equal requests at once, one stores its run.
 * 2. Everything else hangs on that: where the id was known, nothing is stored. What is kept as the
 *    answer is the run's id; the rest of it follows from the run (started-before.ts).
 * 3. A workspace has a head of its journal before a run of it is stored.
 */
import { type Database, isCheckViolation, type Statement } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { createFairGroup } from "../../../mesh/fair-group.ts"
import type { RequestKey } from "../../../mesh/request-id.ts"
import { askSql } from "../approval/asked-sql.ts"
import { chargeSql } from "../budget/charge-sql.ts"
import type { Change } from "../change/change.ts"
import {
  askedRow,
  Content,
  denial,
  hasReservation,
  reservationRow,
  verdictRow,
} from "../change/change-rows.ts"
import { maxChanges } from "../change/change-sql.ts"
import { compareRuns } from "../change/change-store.ts"
import { ensureJournals } from "../journal/journal-head-store.ts"
import { appendSql, requireHeads } from "../journal/journal-sql.ts"
import { type Clock, clockFrom, type ToolCallRecord } from "../run/snapshot.ts"

/** A run to store, and what belongs to it that is no part of a change. */
export interface Start {
  /** From nothing to how the run begins. */
  readonly change: Change
  readonly key: RequestKey
  readonly timeoutMs: number
  /** When it begins; undefined for at once. */
  readonly begin?: Begin | undefined
  /** Who owns the run from the start; undefined leaves it to whoever comes first. */
  readonly lease: { readonly owner: string; readonly leaseMs: number } | undefined
}

/** When a run begins: at a time, or so long after it was stored, by the clock of the database. */
export type Begin = { readonly at: Date } | { readonly afterMs: number }

/** What became of a start. */
export type Started =
  | {
      readonly kind: "started"
      /** When, by the clock of the database. */
      readonly at: Date
    }
  /** The request's id was used before: its answer, or a conflict, is where answers are kept. */
  | { readonly kind: "known" }

export interface StartStore extends AsyncDisposable {
  start(start: Start): Promise<Started>
  /** The clock of the database, once it has been heard. */
  clock(): Clock | undefined
}

/** `maxOpenApprovals` may wait in a workspace: a start that would ask one more is LIMIT_EXCEEDED. */
export function createStartStore(database: Database, maxOpenApprovals: number): StartStore {
  const known = new Set<string>()
  let clock: Clock | undefined

  async function store(starts: readonly Start[]): Promise<readonly Started[]> {
    const { results, time } = await storeStarts(database, starts, { known, maxOpenApprovals })
    clock = clockFrom(time)
    return results
  }

  const group = createFairGroup<Start, Started>({
    name: "starts",
    maxItems: maxChanges,
    maxInFlight: 1,
    workspaceOf: ({ change }) => change.run.workspaceId,
    async run(starts) {
      try {
        return await store(starts)
      } catch (error) {
        if (known.size === 0 || reasonOf(error) === "DEPENDENCY_UNAVAILABLE") throw error
        // The database may have been restored to a time before a journal began.
        known.clear()
        return store(starts)
      }
    },
  })
  return {
    start: (start) =>
      group.add(start).catch((error: unknown) => {
        if (!isCheckViolation(error, "approvals_open_limit")) throw error
        const metadata = { limit: "open_approvals", maximum: String(maxOpenApprovals) }
        throw new RunwardenError("LIMIT_EXCEEDED", metadata, { cause: error })
      }),
    clock: () => clock,
    [Symbol.asyncDispose]: () => group[Symbol.asyncDispose](),
  }
}

/** Stores runs, in a transaction of their own or in that of the `database` that is handed in. */
export async function storeStarts(
  database: Pick<Database, "batch">,
  starts: readonly Start[],
  { known, maxOpenApprovals }: { readonly known: Set<string>; readonly maxOpenApprovals: number },
): Promise<{ readonly results: readonly Started[]; readonly time: Date }> {
  const sorted = starts.toSorted((one, other) => compareRuns(one.change.run, other.change.run))
  const content = new Content()
  const runs = sorted.map((start, n) => startRow(n, start, content))
  const calls = sorted.flatMap(({ change }, n) =>
    change.before.calls.map(({ stepIndex }) => plannedRow(n, change, change.call(stepIndex))),
  )
  const verdicts = sorted.flatMap(({ change }, n) =>
    change.verdicts.map((verdict) => verdictRow(n, change, verdict)),
  )
  const asked = sorted.flatMap(({ change }, n) =>
    change.approvals.map((approval) => askedRow(n, change, approval, maxOpenApprovals)),
  )
  const workspaceIds = [...new Set(runs.map((row) => row.workspace_id))]
  await ensureJournals(database, workspaceIds, known)
  const json = [runs, calls, verdicts].map((each) => JSON.stringify(each))
  const values = [...json, content.concat()]
  const parts = {
    asks: asked.length > 0,
    reserves: sorted.some(({ change }) => hasReservation(change)),
  }
  const [reply] = await database.batch<Reply>(workspaceIds, statementOf(parts), [
    ...values,
    ...(parts.asks ? [JSON.stringify(asked)] : []),
  ])
  if (reply === undefined) throw new Error("the statement answers one row")
  const stored = new Set(reply.stored.map((n) => sorted[n]))
  const at: Started = { kind: "started", at: reply.time }
  const results = starts.map((start) => (stored.has(start) ? at : { kind: "known" as const }))
  return { results, time: reply.time }
}

interface Reply {
  readonly stored: readonly number[]
  readonly time: Date
}

function startRow(n: number, { change, key, timeoutMs, begin, lease }: Start, content: Content) {
  const { run } = change
  return {
    n,
    workspace_id: run.workspaceId,
    run_id: run.runId,
    thread_id: run.threadId,
    in_line: run.isInLine,
    requester_id: run.requesterId,
    requester_role: run.requesterRole,
    state: run.state,
    reason: run.reason,
    policy_denial: denial(run.policyDenial),
    moderation_outcome: run.moderationOutcome,
    plan_name: run.planName,
    plan: run.plan,
    input: run.input,
    step_count: run.stepCount,
    budget: run.budget === undefined ? undefined : JSON.stringify(run.budget),
    calls: run.usedCalls,
    payload_bytes: run.payloadBytes,
    trace_id: run.traceId,
    trace_parent: run.traceParent,
    request_id: key.requestId,
    method: key.method,
    request_sha256: key.sha256,
    timeout_ms: timeoutMs,
    start_time: begin !== undefined && "at" in begin ? begin.at.toISOString() : undefined,
    delay_ms: begin !== undefined && "afterMs" in begin ? begin.afterMs : undefined,
    claim: change.claim.kind,
    due_time: change.claim.kind === "release" ? change.claim.dueAt.toISOString() : undefined,
    owner: lease?.owner,
    lease_ms: change.claim.kind === "keep" ? (lease?.leaseMs ?? 0) : 0,
    entries: change.entries.count,
    ...content.add(change.entries.bytes),
    ...reservationRow(change),
  }
}

function plannedRow(n: number, { run }: Change, call: ToolCallRecord) {
  return {
    n,
    workspace_id: run.workspaceId,
    run_id: run.runId,
    step_index: call.stepIndex,
    tool_call_id: call.toolCallId,
    tool: call.tool,
    tool_version: call.toolVersion,
    definition_digest: call.definitionDigest,
    risk_class: call.riskClass,
    effect: call.effect,
    title: call.title,
    on_error: call.onError,
    timeout_ms: call.timeoutMs,
    max_usage: call.maxUsage === undefined ? undefined : JSON.stringify(call.maxUsage),
    planned_arguments: JSON.stringify(call.plannedArguments),
    is_literal: call.isLiteral,
    state: call.state,
    reason: call.reason,
    policy_denial: denial(call.policyDenial),
    arguments_digest: call.argumentsDigest,
    verdict: call.verdict,
    decision_id: call.decisionId,
    policy_version: call.policyVersion,
    matched_rules: call.matchedRules,
    moderation_outcome: call.moderationOutcome,
    approval_id: call.approvalId,
    attempts: call.attempts,
  }
}

/** What only some starts do: ask somebody, or take what a call may use up. */
interface StartParts {
  readonly asks: boolean
  readonly reserves: boolean
}

const statements = new Map<string, Statement>()

function statementOf(parts: StartParts): Statement {
  const named = Object.entries(parts).flatMap(([part, isThere]) => (isThere ? [part] : []))
  const name = ["store-starts", ...named].join("-")
  const known = statements.get(name) ?? { name, text: textOf(parts) }
  statements.set(name, known)
  return known
}

const releaseNothing = `null::integer as release_step, 0 as release_tokens, 0 as release_cost,`

function textOf({ asks, reserves }: StartParts): string {
  return `
  with item as materialized (
    select * from json_to_recordset($1::json) as i (n integer, workspace_id uuid, run_id uuid,
      thread_id uuid, in_line boolean, requester_id text, requester_role smallint, state text,
      reason text, policy_denial text, moderation_outcome text, plan_name text, plan text, input text,
      step_count integer, budget text, calls integer, payload_bytes bigint, trace_id text, trace_parent text,
      request_id uuid, method text, request_sha256 text, timeout_ms double precision,
      start_time timestamptz, delay_ms double precision, claim text, due_time timestamptz,
      owner uuid, lease_ms double precision, entries integer, first_byte integer, bytes integer${reserves ? ", reserve_tokens bigint, reserve_cost bigint" : ""})
  ), repeatable as (
    insert into requests (workspace_id, request_id, method, request_sha256, response)
    select workspace_id, request_id, method, request_sha256, convert_to(run_id::text, 'UTF8')
    from item order by workspace_id, request_id
    on conflict (workspace_id, request_id) do nothing
    returning workspace_id, request_id, response
  ), fresh as materialized (
    select i.*, 1::bigint as first_sequence, 0 as tokens, 0 as cost_micros, ${reserves ? releaseNothing : ""}
      coalesce(i.start_time, now() + i.delay_ms * interval '1 millisecond') as begin_time
    from item i
    where exists (select from repeatable q where q.workspace_id = i.workspace_id
      and q.request_id = i.request_id and q.response = convert_to(i.run_id::text, 'UTF8'))
  ), kept as materialized (
    -- A bit per run that is stored: cheaper to ask than a join.
    select coalesce(bit_or(set_bit(b'0'::bit(${maxChanges}), n, 1)), b'0'::bit(${maxChanges})) as bits
    from fresh
  ), run as (
    insert into runs (workspace_id, run_id, thread_id, in_line, requester_id, requester_role, state,
      reason, policy_denial, moderation_outcome, plan_name, plan, input, step_count, budget,
      used_calls, payload_bytes, epoch, event_count, trace_id, trace_parent, request_id, start_time, deadline,
      end_time)
    select workspace_id, run_id, thread_id, in_line, requester_id, requester_role, state, reason,
      policy_denial, moderation_outcome, plan_name, plan, input, step_count, budget, calls,
      payload_bytes, 1, entries, trace_id, trace_parent, request_id,
      case when begin_time > now() then begin_time end,
      greatest(begin_time, now()) + timeout_ms * interval '1 millisecond',
      case when state in ('succeeded', 'failed', 'cancelled', 'expired') then now() end
    from fresh
  ), claimed as (
    insert into run_claims (workspace_id, run_id, owner, epoch, due_time)
    select workspace_id, run_id, case when claim <> 'release' then owner end, 1,
      greatest(due_time, begin_time, now() + lease_ms * interval '1 millisecond')
    from fresh where claim <> 'drop'
  ), judged as (
    insert into verdicts (workspace_id, run_id, step_index, digest, verdict, decision_id,
      policy_version)
    select workspace_id, run_id, step_index, digest, verdict, decision_id, policy_version
    from json_to_recordset($3::json) as v (n integer, workspace_id uuid, run_id uuid,
      step_index integer, digest text, verdict text, decision_id text, policy_version text)
    where get_bit((select bits from kept), n) = 1
  ), called as (
    insert into tool_calls (workspace_id, run_id, step_index, tool_call_id, idempotency_key, tool,
      tool_version, definition_digest, risk_class, effect, title, on_error, timeout_ms, max_usage,
      planned_arguments, is_literal, state, reason, policy_denial, arguments_digest, verdict, decision_id,
      policy_version, matched_rules, moderation_outcome, approval_id, attempts, start_time, end_time)
    select workspace_id, run_id, step_index, tool_call_id, run_id::text || '/' || step_index::text,
      tool, tool_version, definition_digest, risk_class, effect, title, on_error, timeout_ms, max_usage,
      planned_arguments, is_literal, state, reason, policy_denial, arguments_digest, verdict,
      decision_id, policy_version, matched_rules, moderation_outcome, approval_id, attempts,
      case when state = 'executing' then now() end,
      case when state in ('denied', 'cancelled') then now() end
    from json_to_recordset($2::json) as c (n integer, workspace_id uuid, run_id uuid,
      step_index integer, tool_call_id uuid, tool text, tool_version text,
      definition_digest text, risk_class text, effect text, title text, on_error text,
      timeout_ms bigint, max_usage text,
      planned_arguments text, is_literal boolean, state text, reason text, policy_denial text,
      arguments_digest text, verdict text, decision_id text, policy_version text,
      matched_rules text[], moderation_outcome text, approval_id uuid, attempts integer)
    where get_bit((select bits from kept), n) = 1
    returning 1
  ), ${asks ? `asked as (${askSql("$5", "get_bit((select bits from kept), n) = 1")}), ` : ""}${appendSql("fresh", { before: "called", content: "$4" })}, ${chargeSql("fresh", reserves)}
  select array(select n from fresh) as stored, now() as time,
    case ${requireHeads("fresh")} end as checked`
}
