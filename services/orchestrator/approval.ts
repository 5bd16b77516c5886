/**
 * An approval's states, what it is bound to, and who may answer it. No I/O, no clock, no ids.
 *
 * States: pending; terminal: approved, rejected, expired, cancelled, superseded.
 * Events: approve, reject, expire, cancel, supersede.
 *
 * Invariants:
 * 1. Only a pending approval has events: a given answer never changes.
 * 2. The digest covers everything that was shown and everything that will run. Any other byte is
 *    another digest; the order of keys is none.
 * 3. No answer in time is a no. There is no event that turns a missing answer into a yes.
 * 4. The rule about who may answer is data of the approval, not of the process that asks.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { digestOf } from "../../mesh/canonical.ts"
import { illegalTransition } from "../../mesh/errors.ts"

export type ApprovalState =
  | "pending"
  | "approved"
  | "rejected"
  | "expired"
  | "cancelled"
  | "superseded"

export type ApprovalEvent = "approve" | "reject" | "expire" | "cancel" | "supersede"

/** What must happen in the transaction that stores the new state, besides storing it. */
export type ApprovalEffect =
  /** The call becomes ready and the run becomes due. */
  | "wake_run"
  /** The run ends. */
  | "end_run"

export interface ApprovalTransition {
  readonly state: ApprovalState
  readonly effects: readonly ApprovalEffect[]
}

export const approvalStates: readonly ApprovalState[] = [
  "pending",
  "approved",
  "rejected",
  "expired",
  "cancelled",
  "superseded",
]

const targets: Readonly<Record<ApprovalEvent, ApprovalTransition>> = {
  approve: { state: "approved", effects: ["wake_run"] },
  reject: { state: "rejected", effects: ["end_run"] },
  expire: { state: "expired", effects: ["end_run"] },
  cancel: { state: "cancelled", effects: [] },
  supersede: { state: "superseded", effects: [] },
}

export const approvalEvents = Object.keys(targets) as readonly ApprovalEvent[]

/** The state after an event. Throws ILLEGAL_TRANSITION that names the states reachable from here. */
export function transitionApproval(state: ApprovalState, event: ApprovalEvent): ApprovalTransition {
  const target = targets[event]
  if (state !== "pending") {
    throw illegalTransition("approval", state, target.state, [])
  }
  return target
}

/** Everything that an approval is bound to. */
export interface ApprovalBinding {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly tool: string
  readonly definitionDigest: string
  readonly arguments: JsonObject
  readonly policyVersion: string
  readonly verdict: string
  readonly requesterId: string
  /** Milliseconds of the epoch by the clock of the database. */
  readonly expiresAtMs: number
}

/** SHA-256 (hex) of the canonical form of a binding. Throws where a member is missing. */
export function approvalDigest(binding: ApprovalBinding): string {
  return digestOf({
    workspace: binding.workspaceId,
    run: binding.runId,
    step: binding.stepIndex,
    tool: binding.tool,
    definition_digest: binding.definitionDigest,
    arguments: requireObject(binding.arguments),
    policy_version: binding.policyVersion,
    verdict: binding.verdict,
    requester: binding.requesterId,
    expiry: new Date(binding.expiresAtMs).toISOString(),
  })
}

/** Who may answer: configuration when the approval is asked for, data of its row from then on. */
export interface ApproverRule {
  /** Least role, as the number of `options.v1.Role`. */
  readonly role: number
  readonly isDistinctFromRequester: boolean
}

/** Which part of the rule forbids an answer; undefined where nothing does. */
export function forbiddenBy(
  rule: ApproverRule,
  requesterId: string,
  decider: { readonly actorId: string; readonly role: number },
): "role" | "distinct_from_requester" | undefined {
  if (decider.role < rule.role) return "role"
  if (rule.isDistinctFromRequester && decider.actorId === requesterId) {
    return "distinct_from_requester"
  }
  return undefined
}

/** Missing arguments must never share a digest with empty ones. */
function requireObject(value: JsonObject): JsonObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError("an approval is bound to arguments, and they are missing")
  }
  return value
}
