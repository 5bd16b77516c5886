/**
 * An approval's states, and what it is bound to. No I/O, no clock, no ids.
 *
 * States: pending, approved; terminal: rejected, expired, cancelled, superseded.
 * Events: approve, reject, expire, cancel, supersede.
 *
 * Invariants:
 * 1. Only a pending approval is decided, once. A yes can still lose its worth until it is used, and
 *    that is all that can happen to it.
 * 2. The digest covers everything that was shown and everything that will run. Any other byte is
 *    another digest; the order of keys is none.
 * 3. No answer in time is a no. There is no event that turns a missing answer into a yes.
 * 4. What is shown is made from the bytes that are digested, and can be digested again.
 */
import { createHash } from "node:crypto"
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { canonicalJson } from "../../../mesh/canonical.ts"
import { illegalTransition } from "../../../mesh/errors.ts"
import { visibleJson } from "../../../mesh/visible-text.ts"
import type { Effect, RiskClass, Verdict } from "../action.ts"
import { type PinnedRule, ruleJson } from "./approval-rule.ts"

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

interface Row extends ApprovalTransition {
  readonly from: readonly ApprovalState[]
}

const targets: Readonly<Record<ApprovalEvent, Row>> = {
  approve: { from: ["pending"], state: "approved", effects: ["wake_run"] },
  reject: { from: ["pending"], state: "rejected", effects: ["end_run"] },
  expire: { from: ["pending"], state: "expired", effects: ["end_run"] },
  cancel: { from: ["pending", "approved"], state: "cancelled", effects: [] },
  supersede: { from: ["pending", "approved"], state: "superseded", effects: [] },
}

export const approvalEvents = Object.keys(targets) as readonly ApprovalEvent[]

/** The state after an event. Throws ILLEGAL_TRANSITION that names the states reachable from here. */
export function transitionApproval(state: ApprovalState, event: ApprovalEvent): ApprovalTransition {
  const { from, ...target } = targets[event]
  if (!from.includes(state)) {
    const next = approvalEvents.filter((other) => targets[other].from.includes(state))
    const states = next.map((other) => targets[other].state)
    throw illegalTransition("approval", state, target.state, states)
  }
  return target
}

/** Everything that an approval is bound to. */
export interface ApprovalBinding {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly title: string
  readonly tool: string
  readonly toolVersion: string
  readonly definitionDigest: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly arguments: JsonObject
  readonly policyVersion: string
  readonly verdict: Verdict
  readonly requesterId: string
  readonly rule: PinnedRule
  /** Milliseconds of the epoch by the clock of the database. */
  readonly expiresAtMs: number
}

/** The bytes of a question and their SHA-256 (hex). */
export interface BoundText {
  readonly text: string
  readonly digest: string
}

/** The canonical form of a binding. Throws where a member is missing. */
export function bind(binding: ApprovalBinding): BoundText {
  const text = canonicalJson(
    requireAll({
      workspace: binding.workspaceId,
      run: binding.runId,
      step: binding.stepIndex,
      title: binding.title,
      tool: binding.tool,
      tool_version: binding.toolVersion,
      definition_digest: binding.definitionDigest,
      risk_class: binding.riskClass,
      effect: binding.effect,
      arguments: requireObject(binding.arguments),
      policy_version: binding.policyVersion,
      verdict: binding.verdict,
      requester: binding.requesterId,
      rule: requireAll(ruleJson(binding.rule)),
      expiry: new Date(binding.expiresAtMs).toISOString(),
    }),
  )
  return { text, digest: createHash("sha256").update(text, "utf8").digest("hex") }
}

/** What a person reads first comes first; the order is no part of the digest. */
const shownFirst = ["title", "tool", "tool_version", "risk_class", "effect", "arguments"]

/** A bound text as a person is shown it: JSON that hides nothing and has the same digest. */
export function previewOf(text: string): string {
  const bound = JSON.parse(text) as Record<string, JsonValue>
  const names = new Set([...shownFirst.filter((name) => name in bound), ...Object.keys(bound)])
  return visibleJson(Object.fromEntries([...names].map((name) => [name, bound[name]])))
}

/** The arguments that a bound text covers. */
export function argumentsOf(text: string): JsonObject {
  return requireObject((JSON.parse(text) as { readonly arguments: JsonObject }).arguments)
}

/** A member that is undefined would be left out, and two questions could share a digest. */
function requireAll(value: JsonObject): JsonObject {
  const missing = Object.keys(value).find((name) => value[name] === undefined)
  if (missing !== undefined) throw new TypeError(`an approval is bound to its ${missing}`)
  return value
}

/** Missing arguments must never share a digest with empty ones. */
function requireObject(value: JsonObject): JsonObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError("an approval is bound to arguments, and they are missing")
  }
  return value
}
