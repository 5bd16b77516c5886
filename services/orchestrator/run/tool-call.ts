/**
 * A tool call's states and what moves it between them. No I/O, no clock, no ids.
 *
 * States: proposed, moderating, awaiting_approval, ready, executing, outcome_unknown; terminal:
 * succeeded, failed, denied, expired, cancelled.
 * Events: moderate, deny, ask, permit, approve, reject, expire, supersede, revoke, execute,
 * succeed, fail, lose, settle_succeeded, settle_failed, cancel.
 *
 * Invariants:
 * 1. A terminal state has no event: it never changes.
 * 2. Only a ready call can be executed, and a call becomes ready only out of moderation or by an
 *    approval that moderation led to.
 * 3. An executing call ends in succeeded, failed or outcome_unknown and in nothing else: it can
 *    neither be denied nor cancelled, because it may have taken effect.
 * 4. An unknown outcome is settled once, by what was found out, and never by running again.
 */
import { illegalTransition } from "../../../mesh/errors.ts"

export type ToolCallState =
  | "proposed"
  | "moderating"
  | "awaiting_approval"
  | "ready"
  | "executing"
  | "outcome_unknown"
  | "succeeded"
  | "failed"
  | "denied"
  | "expired"
  | "cancelled"

export type ToolCallEvent =
  | "moderate"
  | "deny"
  | "ask"
  | "permit"
  | "approve"
  | "reject"
  | "expire"
  | "supersede"
  | "revoke"
  | "execute"
  | "succeed"
  | "fail"
  | "lose"
  | "settle_succeeded"
  | "settle_failed"
  | "cancel"

/** What must happen in the transaction that stores the new state, besides storing it. */
export type ToolCallEffect =
  /** An approval is asked for. */
  | "open_approval"
  /** The approval, if there is one that is not used, becomes superseded. */
  | "supersede_approval"
  /** The approval, if there is one that is not used, becomes cancelled. */
  | "cancel_approval"
  /** The verdict and, where one is needed, the approval admit the call: the approval is used up. */
  | "admit"

export interface ToolCallTransition {
  readonly state: ToolCallState
  readonly effects: readonly ToolCallEffect[]
}

export const toolCallStates: readonly ToolCallState[] = [
  "proposed",
  "moderating",
  "awaiting_approval",
  "ready",
  "executing",
  "outcome_unknown",
  "succeeded",
  "failed",
  "denied",
  "expired",
  "cancelled",
]

interface Row {
  readonly from: readonly ToolCallState[]
  readonly to: ToolCallState
  readonly effects?: readonly ToolCallEffect[]
}

const table: Readonly<Record<ToolCallEvent, Row>> = {
  moderate: { from: ["proposed"], to: "moderating" },
  deny: { from: ["moderating"], to: "denied" },
  ask: { from: ["moderating"], to: "awaiting_approval", effects: ["open_approval"] },
  permit: { from: ["moderating"], to: "ready" },
  approve: { from: ["awaiting_approval"], to: "ready" },
  reject: { from: ["awaiting_approval"], to: "denied" },
  expire: { from: ["awaiting_approval"], to: "expired" },
  supersede: {
    from: ["awaiting_approval", "ready"],
    to: "moderating",
    effects: ["supersede_approval"],
  },
  revoke: { from: ["ready"], to: "denied", effects: ["cancel_approval"] },
  execute: { from: ["ready"], to: "executing", effects: ["admit"] },
  succeed: { from: ["executing"], to: "succeeded" },
  fail: { from: ["executing"], to: "failed" },
  lose: { from: ["executing"], to: "outcome_unknown" },
  settle_succeeded: { from: ["outcome_unknown"], to: "succeeded" },
  settle_failed: { from: ["outcome_unknown"], to: "failed" },
  cancel: {
    from: ["proposed", "moderating", "awaiting_approval", "ready"],
    to: "cancelled",
    effects: ["cancel_approval"],
  },
}

export const toolCallEvents = Object.keys(table) as readonly ToolCallEvent[]

/** The state after an event. Throws ILLEGAL_TRANSITION that names the states reachable from here. */
export function transitionToolCall(state: ToolCallState, event: ToolCallEvent): ToolCallTransition {
  const row = table[event]
  if (!row.from.includes(state)) {
    throw illegalTransition("tool_call", state, row.to, nextToolCallStates(state))
  }
  return { state: row.to, effects: row.effects ?? [] }
}

export function isTerminalToolCall(state: ToolCallState): boolean {
  return nextToolCallStates(state).length === 0
}

/** Whether a call was carried out and it is known what became of it. */
export function isEndedToolCall(state: ToolCallState): boolean {
  return state === "succeeded" || state === "failed"
}

/** Whether the end of its run cancels a call in this state. */
export function isOpenToolCall(state: ToolCallState): boolean {
  return table.cancel.from.includes(state)
}

/** The states that a call can reach from here in one step. */
export function nextToolCallStates(state: ToolCallState): readonly ToolCallState[] {
  const next = toolCallEvents.filter((event) => table[event].from.includes(state))
  return [...new Set(next.map((event) => table[event].to))]
}
