/**
 * The heart of the effect ledger: what may be done under one idempotency key. Pure: no clock, no
 * database, no network; the executor carries out what these functions decide.
 *
 * States: in_flight → succeeded | failed, in_flight → outcome_unknown → succeeded | failed.
 *
 * Invariants:
 * 1. succeeded and failed never change.
 * 2. An unsafe call is sent once, and never again by anybody.
 * 3. Nothing is sent that is not recorded first; each sending has a number of its own.
 * 4. Only an unsafe call becomes outcome_unknown; a read or keyed one stays open to be repeated.
 * 5. One key belongs to one request.
 * 6. An owner of the run that was overtaken by a later one records and sends nothing.
 * 7. A key is sealed only before anything was sent under it; from then on it is a failed one.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { illegalTransition } from "../../mesh/errors.ts"

export type Effect = "read" | "keyed" | "unsafe"

export type LedgerState = "in_flight" | "succeeded" | "failed" | "outcome_unknown"

/** Whether a call that gave no usable result took effect. */
export type Applied = "true" | "false" | "unknown"

export interface ToolFailure {
  readonly reason: string
  readonly message: string
  readonly metadata: Readonly<Record<string, string>>
}

/** What the ledger records as the end of a call, or as the lack of one. */
export type Outcome =
  | { readonly kind: "succeeded"; readonly result: JsonObject }
  | { readonly kind: "failed"; readonly error: ToolFailure }
  | { readonly kind: "outcome_unknown" }

export type LedgerEvent = "resent" | Outcome["kind"]

const transitions = {
  in_flight: {
    resent: "in_flight",
    succeeded: "succeeded",
    failed: "failed",
    outcome_unknown: "outcome_unknown",
  },
  outcome_unknown: { succeeded: "succeeded", failed: "failed" },
  succeeded: {},
  failed: {},
} as const satisfies Record<LedgerState, Partial<Record<LedgerEvent, LedgerState>>>

/** The state after an event. Throws ILLEGAL_TRANSITION for a step that the ledger does not know. */
export function transition(effect: Effect, state: LedgerState, event: LedgerEvent): LedgerState {
  const steps: Partial<Record<LedgerEvent, LedgerState>> = transitions[state]
  const next = steps[event]
  const isOutOfClass = event === "outcome_unknown" && effect !== "unsafe" // (4)
  if (next === undefined || isOutOfClass) {
    throw illegalTransition("execution", state, event, Object.keys(steps))
  }
  return next
}

/** The states from which an outcome may be recorded. */
export function statesBefore(event: Outcome["kind"]): readonly LedgerState[] {
  const states: readonly LedgerState[] = ["in_flight", "outcome_unknown", "succeeded", "failed"]
  return states.filter((state) => event in transitions[state])
}

/** The ledger's row, as far as an admission looks at it. */
export interface LedgerEntry {
  readonly requestDigest: string
  readonly effect: Effect
  readonly state: LedgerState
  /** Whether somebody may still be waiting for the provider, by the clock of the database. */
  readonly isLeased: boolean
}

export interface LedgerRequest {
  readonly requestDigest: string
  readonly epoch: bigint
}

/** What an Execute request may do. */
export type Admission =
  | { readonly kind: "send" }
  | { readonly kind: "repeat" }
  | { readonly kind: "abandon" }
  | { readonly kind: "probe" }
  | { readonly kind: "replay" }
  | { readonly kind: "lease_lost" }
  | { readonly kind: "conflict" }
  | { readonly kind: "in_progress" }

/**
 * Decides what a request may do, given the row of its key and the highest epoch seen of its run.
 *
 * - `send`: record the intent, then send. `repeat`: count another sending, then send again.
 * - `abandon`: the sender of an unsafe call is gone; record outcome_unknown, then ask the provider.
 * - `probe`: ask the provider what became of the call. `replay`: answer what is recorded.
 */
export function admit(
  entry: LedgerEntry | undefined,
  request: LedgerRequest,
  runEpoch: bigint,
): Admission {
  if (request.epoch < runEpoch) return { kind: "lease_lost" } // (6)
  if (entry === undefined) return { kind: "send" }
  if (entry.requestDigest !== request.requestDigest) return { kind: "conflict" } // (5)
  switch (entry.state) {
    case "succeeded":
    case "failed":
      return { kind: "replay" } // (1)
    case "outcome_unknown":
      return { kind: "probe" }
    case "in_flight":
      if (entry.isLeased) return { kind: "in_progress" }
      return { kind: entry.effect === "unsafe" ? "abandon" : "repeat" } // (2)
  }
}

/** What a key that is sealed has for its outcome. */
export const sealed: ToolFailure = {
  reason: "not_executed",
  message: "The call was given up before it was sent.",
  metadata: { applied: "false" },
}

/** What came back from one sending. */
export type Answer =
  | { readonly kind: "result"; readonly result: JsonObject }
  | { readonly kind: "tool_error"; readonly error: ToolFailure }
  /** The provider says that it worked, but what it returned cannot be used. */
  | {
      readonly kind: "unusable"
      readonly reason: "result_invalid" | "result_too_large"
      readonly message: string
    }
  /** The answer was larger than the service reads, so that nothing of it is known. */
  | { readonly kind: "oversized"; readonly message: string }
  /** The provider refused the call before any effect. */
  | { readonly kind: "refused"; readonly message: string }
  /** The call certainly never left. */
  | { readonly kind: "unsent"; readonly message: string }
  /** The call may or may not have taken effect. */
  | { readonly kind: "lost"; readonly message: string }

export interface Attempts {
  /** Whether another sending is allowed by number and time. */
  readonly canRepeat: boolean
  /** Whether an earlier sending under this key may have reached the provider. */
  readonly maybeApplied: boolean
}

/** What follows an answer. `release` leaves the row open and tells the caller to come back. */
export type Next =
  | { readonly kind: "record"; readonly outcome: Outcome }
  | { readonly kind: "repeat" }
  | { readonly kind: "probe" }
  | { readonly kind: "release" }

/** Decides what follows an answer, by the effect class. */
export function afterAnswer(effect: Effect, answer: Answer, attempts: Attempts): Next {
  const before: Applied = attempts.maybeApplied ? "unknown" : "false"
  switch (answer.kind) {
    case "result":
      return record({ kind: "succeeded", result: answer.result })
    case "tool_error":
      return record({ kind: "failed", error: answer.error })
    case "unusable":
      return record(failure(answer.reason, answer.message, effect === "read" ? "false" : "true"))
    case "oversized":
      if (effect === "unsafe") return { kind: "probe" }
      return record(
        failure("result_too_large", answer.message, effect === "read" ? "false" : "unknown"),
      )
    case "refused":
      return record(failure("not_executed", answer.message, before))
    case "unsent":
      if (attempts.canRepeat && effect !== "unsafe") return { kind: "repeat" } // (2)
      // A caller that comes back may find the provider there again; an unsafe call has one sending.
      if (attempts.maybeApplied || effect !== "unsafe") return { kind: "release" }
      return record(failure("provider_unavailable", answer.message, "false"))
    case "lost":
      if (effect === "unsafe") return { kind: "probe" } // (2)
      return { kind: attempts.canRepeat ? "repeat" : "release" }
  }
}

/** What a provider tells about a call whose answer was lost. */
export type Report =
  | { readonly kind: "completed"; readonly answer: Answer }
  | { readonly kind: "not_executed" }
  | { readonly kind: "unknown" }

/** The outcome that a provider's report settles an unsafe call with. */
export function settledBy(report: Report): Outcome {
  switch (report.kind) {
    case "not_executed":
      return failure("not_executed", "The provider says that the call never ran.", "false")
    case "unknown":
      return { kind: "outcome_unknown" }
    case "completed": {
      const next = afterAnswer("unsafe", report.answer, { canRepeat: false, maybeApplied: true })
      return next.kind === "record" ? next.outcome : { kind: "outcome_unknown" }
    }
  }
}

function failure(reason: string, message: string, applied: Applied): Outcome {
  return { kind: "failed", error: { reason, message, metadata: { applied } } }
}

function record(outcome: Outcome): Next {
  return { kind: "record", outcome }
}
