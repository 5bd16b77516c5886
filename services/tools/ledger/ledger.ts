/**
 * The heart of the effect ledger: what may be done under one idempotency key. Pure: no clock, no
 * database, no network; the executor carries out what these functions decide.
 *
 * States: in_flight → succeeded | failed, in_flight → outcome_unknown → succeeded | failed. A row in
 * flight is held (its sender lives), expired (its sender vanished) or open (its sender gave it back).
 *
 * Invariants:
 * 1. succeeded and failed never change.
 * 2. An unsafe call that may have been sent is never sent again, by anybody.
 * 3. Nothing is sent that is not recorded first; each sending has a number of its own, and at most
 *    one of them is on its way.
 * 4. Only an unsafe call becomes outcome_unknown; a read or keyed one stays open to be repeated.
 * 5. One key belongs to one request.
 * 6. An owner of the run that was overtaken by a later one records and sends nothing.
 * 7. A key is sealed only while nobody is sending it; from then on it is a failed one.
 * 8. What is said not to have been applied was not: an earlier sending that may have been is kept in
 *    mind for as long as the key is.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { illegalTransition } from "../../../mesh/errors.ts"

export type Effect = "read" | "keyed" | "unsafe"

export type LedgerState = "in_flight" | "succeeded" | "failed" | "outcome_unknown"

/** Who has a row in flight, by the clock of the database. */
export type Hold = "held" | "expired" | "open"

/** Whether a call that gave no usable result took effect. */
export type Applied = "true" | "false" | "unknown"

export interface ToolFailure {
  readonly reason: string
  readonly message: string
  readonly metadata: Readonly<Record<string, string>>
}

/** What a call used up, as its provider reports it. */
export interface Usage {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly costMicros: number
}

/** What may be said with any end of a call. */
export interface Used {
  /** Absent where the provider said nothing. */
  readonly usage?: Usage
}

/** What the ledger records as the end of a call, or as the lack of one. */
export type Outcome = Used & OutcomeKind

type OutcomeKind =
  | {
      readonly kind: "succeeded"
      readonly result: JsonObject
      /** The result as JSON, made once. */
      readonly text: string
    }
  | { readonly kind: "failed"; readonly error: ToolFailure }
  | { readonly kind: "outcome_unknown" }

export type LedgerEvent = "resent" | "released" | Outcome["kind"]

const transitions = {
  in_flight: {
    resent: "in_flight",
    released: "in_flight",
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

/** The states in which an event may happen. */
export function statesBefore(event: LedgerEvent): readonly LedgerState[] {
  const states: readonly LedgerState[] = ["in_flight", "outcome_unknown", "succeeded", "failed"]
  return states.filter((state) => event in transitions[state])
}

/** The ledger's row, as far as a decision looks at it. */
export interface LedgerEntry {
  readonly requestDigest: string
  readonly effect: Effect
  readonly state: LedgerState
  /** Of a row in flight. */
  readonly hold: Hold
  /** Whether a sending before the last one may have taken effect. */
  readonly maybeApplied: boolean
}

export interface LedgerRequest {
  readonly requestDigest: string
  readonly epoch: bigint
}

/**
 * The highest epoch that counts as seen of a run. The first owner of a run has epoch 1, so that
 * nothing needs to be stored until a second one comes.
 */
export function floorOf(stored: bigint | undefined): bigint {
  return stored ?? 1n
}

/** What an Execute request may do. */
export type Admission =
  | { readonly kind: "send" }
  | { readonly kind: "repeat"; readonly maybeApplied: boolean }
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
      if (entry.hold === "held") return { kind: "in_progress" } // (3)
      if (isUnsafeAndSent(entry)) return { kind: "abandon" } // (2)
      return { kind: "repeat", maybeApplied: mayBeApplied(entry) }
  }
}

/** What a SealExecution request may do. */
export type Sealing =
  | { readonly kind: "close"; readonly outcome: Outcome }
  | { readonly kind: "abandon" }
  | { readonly kind: "probe" }
  | { readonly kind: "leave" }
  | { readonly kind: "lease_lost" }

/** Decides whether a key may be closed for good, given its row. */
export function seal(
  entry: LedgerEntry | undefined,
  request: Pick<LedgerRequest, "epoch">,
  runEpoch: bigint,
): Sealing {
  if (request.epoch < runEpoch) return { kind: "lease_lost" } // (6)
  if (entry === undefined) return { kind: "close", outcome: givenUp("false") }
  if (entry.state === "outcome_unknown") return { kind: "probe" }
  if (entry.state !== "in_flight" || entry.hold === "held") return { kind: "leave" } // (1), (7)
  if (isUnsafeAndSent(entry)) return { kind: "abandon" } // (2)
  const isUncertain = entry.effect === "keyed" && mayBeApplied(entry)
  return { kind: "close", outcome: givenUp(isUncertain ? "unknown" : "false") }
}

/** The outcome of a call that will not be sent any more. */
function givenUp(applied: Applied): Outcome {
  const message =
    applied === "unknown"
      ? "The call was given up; whether it took effect is not known."
      : "The call was given up before it took effect."
  return failure("given_up", message, applied)
}

/** A sender that gave its row back says whether it may have sent; one that vanished may have. (8) */
function mayBeApplied({ hold, maybeApplied }: LedgerEntry): boolean {
  return maybeApplied || hold === "expired"
}

function isUnsafeAndSent(entry: LedgerEntry): boolean {
  return entry.effect === "unsafe" && mayBeApplied(entry)
}

/** A call that gave nothing to use, and whether it took effect. */
export function failure(reason: string, message: string, applied: Applied): Outcome {
  return { kind: "failed", error: { reason, message, metadata: { applied } } }
}
