/**
 * What a change consists of as rows of the statements that store many: one object per row, with `n`
 * for the change it belongs to. A member that is undefined is left out, and what is left out stays as
 * it is stored.
 */
import type { RequestKey } from "../../../mesh/request-id.ts"
import type { PinnedRule } from "../approval/approval-rule.ts"
import type { ApprovalRecord, Denial, ToolCallRecord } from "../run/snapshot.ts"
import type { Change } from "./change.ts"

/** The answer that is kept with a change, for when its request is sent again. */
export interface Answer {
  readonly key: RequestKey
  readonly response: Uint8Array
}

/** Bytes of many changes one after the other, as the one parameter that holds them all. */
export class Content {
  readonly #parts: Uint8Array[] = []
  #length = 0

  /** Where the bytes stand, as Postgres counts: from 1. */
  add(bytes: Uint8Array): { readonly first_byte: number; readonly bytes: number } {
    const place = { first_byte: this.#length + 1, bytes: bytes.length }
    this.#parts.push(bytes)
    this.#length += bytes.length
    return place
  }

  concat(): Buffer {
    return Buffer.concat(this.#parts, this.#length)
  }
}

export function runRow(n: number, change: Change, content: Content) {
  const { run, before, claim, consumption } = change
  const from = before.run
  return {
    n,
    workspace_id: run.workspaceId,
    run_id: run.runId,
    epoch: from.epoch,
    revision: from.revision,
    state: changed(from.state, run.state),
    reason: changed(from.reason, run.reason),
    policy_denial: run.policyDenial === from.policyDenial ? undefined : denial(run.policyDenial),
    moderation_outcome: changed(from.moderationOutcome, run.moderationOutcome),
    step_index: changed(from.stepIndex, run.stepIndex),
    requester_role: changed(from.requesterRole, run.requesterRole),
    calls: run.usedCalls - from.usedCalls || undefined,
    input_tokens: run.usedInputTokens - from.usedInputTokens || undefined,
    output_tokens: run.usedOutputTokens - from.usedOutputTokens || undefined,
    cost_micros: run.usedCostMicros - from.usedCostMicros || undefined,
    payload_bytes: run.payloadBytes - from.payloadBytes || undefined,
    ...reservationRow(change),
    entries: change.entries.count,
    ...content.add(change.entries.bytes),
    claim: claimWord[claim.kind],
    due_time: claim.kind === "release" ? claim.dueAt.toISOString() : undefined,
    owner: claim.kind === "take" ? claim.owner : undefined,
    lease_ms: claim.kind === "take" ? claim.leaseMs : undefined,
    approval_id: consumption?.approvalId,
    approval_digest: consumption?.digest,
  }
}

/** What is held from now on, and what is not any more; there where `hasReservation`. */
export function reservationRow({ reserved, released }: Change) {
  if (reserved === undefined && released === undefined) return undefined
  return {
    reserve_tokens: reserved?.tokens,
    reserve_cost: reserved?.costMicros,
    release_step: released?.stepIndex,
    release_tokens: released?.usage.tokens,
    release_cost: released?.usage.costMicros,
  }
}

export function hasReservation({ reserved, released }: Change): boolean {
  return reserved !== undefined || released !== undefined
}

/** A run that is woken is released, and due as soon as that is stored. */
const claimWord: Readonly<Record<Change["claim"]["kind"], string | undefined>> = {
  keep: undefined,
  drop: "drop",
  release: "release",
  wake: "release",
  cancel: "cancel",
  take: "take",
}

export function verdictRow(
  n: number,
  { run, before }: Change,
  { stepIndex, judgement }: Change["verdicts"][number],
) {
  return {
    n,
    workspace_id: run.workspaceId,
    run_id: run.runId,
    step_index: stepIndex,
    is_new: before.calls[stepIndex]?.verdict === undefined,
    digest: judgement.digest,
    verdict: judgement.verdict,
    decision_id: judgement.decisionId,
    policy_version: judgement.policyVersion,
  }
}

export function callRow(n: number, change: Change, call: ToolCallRecord) {
  const from = change.before.calls[call.stepIndex]
  if (from === undefined) throw new Error(`the run has no step ${call.stepIndex}`)
  const isAdmitted = call.state === "executing" && from.state !== "executing"
  return {
    n,
    workspace_id: call.workspaceId,
    run_id: call.runId,
    step_index: call.stepIndex,
    from_state: from.state,
    state: call.state,
    reason: changed(from.reason, call.reason),
    policy_denial: call.policyDenial === from.policyDenial ? undefined : denial(call.policyDenial),
    arguments: call.isLiteral ? undefined : json(from.arguments, call.arguments),
    arguments_digest: changed(from.argumentsDigest, call.argumentsDigest),
    provenance: changedList(from.provenance, call.provenance),
    verdict: changed(from.verdict, call.verdict),
    decision_id: changed(from.decisionId, call.decisionId),
    policy_version: changed(from.policyVersion, call.policyVersion),
    matched_rules: changedList(from.matchedRules, call.matchedRules),
    moderation_outcome: changed(from.moderationOutcome, call.moderationOutcome),
    approval_id: changed(from.approvalId, call.approvalId),
    approval_digest: isAdmitted ? change.consumption?.digest : undefined,
    attempts: changed(from.attempts, call.attempts),
    result: call.result === from.result ? undefined : resultText(change, call),
    error: json(from.error, call.error),
    is_withheld: changed(from.isWithheld, call.isWithheld),
    settler_id: changed(from.settlerId, call.settlerId),
    trace_id: changed(from.traceId, call.traceId),
  }
}

/** An approval that is asked for, with how many may be open in the workspace then. */
export function askedRow(n: number, { run }: Change, approval: ApprovalRecord, openLimit: number) {
  return {
    n,
    workspace_id: run.workspaceId,
    run_id: run.runId,
    approval_id: approval.approvalId,
    step_index: approval.stepIndex,
    tool_call_id: approval.toolCallId,
    tool: approval.tool,
    tool_version: approval.toolVersion,
    definition_digest: approval.definitionDigest,
    risk_class: approval.riskClass,
    effect: approval.effect,
    title: approval.title,
    binding: approval.binding,
    verdict: approval.verdict,
    policy_version: approval.policyVersion,
    matched_rules: approval.matchedRules,
    requester_id: approval.requesterId,
    digest: approval.digest,
    ...ruleRow(approval.rule),
    expire_time: approval.expireTime.toISOString(),
    open_limit: openLimit,
  }
}

function ruleRow(rule: PinnedRule) {
  return {
    rule_version: rule.ruleVersion,
    rule_id: rule.ruleId,
    approver_role: rule.approverRole,
    distinct_from_requester: rule.isDistinctFromRequester,
    quorum: rule.quorum,
    allows_delegation: rule.allowsDelegation,
    allows_break_glass: rule.allowsBreakGlass,
  }
}

/** An approval that was answered, or came to its end. */
export function movedRow(n: number, { run, before }: Change, approval: ApprovalRecord) {
  return {
    n,
    workspace_id: run.workspaceId,
    approval_id: approval.approvalId,
    from_state: before.approval?.state,
    state: approval.state,
    approve_count: approval.approveCount,
    is_glass_broken: approval.isGlassBroken,
    decider_id: approval.deciderId,
    comment: approval.comment,
  }
}

/** What one person said. */
export function givenRow(
  n: number,
  { run }: Change,
  { approvalId, index, approvalNumber, given }: Change["answers"][number],
) {
  return {
    n,
    workspace_id: run.workspaceId,
    approval_id: approvalId,
    answer_index: index,
    approval_number: approvalNumber,
    actor_id: given.actorId,
    role: given.role,
    answer: given.answer,
    comment: given.comment,
    delegation_id: given.delegation?.delegationId,
    delegator_id: given.delegation?.delegatorId,
    break_glass_reason: given.breakGlassReason,
  }
}

export function answerRow(n: number, { key, response }: Answer, content: Content) {
  return {
    n,
    workspace_id: key.workspaceId,
    request_id: key.requestId,
    method: key.method,
    request_sha256: key.sha256,
    ...content.add(response),
  }
}

function resultText(change: Change, { result }: ToolCallRecord): string {
  return change.resultText ?? JSON.stringify(result)
}

function changed<T>(before: T, after: T): T | undefined {
  return after === before ? undefined : after
}

function changedList<T>(before: readonly T[], after: readonly T[]): readonly T[] | undefined {
  return before === after || (before.length === 0 && after.length === 0) ? undefined : after
}

function json(before: unknown, after: unknown): string | undefined {
  return after === before || after === undefined ? undefined : JSON.stringify(after)
}

export function denial(value: Denial | undefined): string | undefined {
  return value === undefined ? undefined : JSON.stringify(value)
}
