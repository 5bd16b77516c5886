/**
 * What follows the answer of a provider, or the lack of one, by the effect class of the call. Pure; the
 * invariants are those of ledger.ts.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import {
  type Applied,
  type Effect,
  failure,
  type Outcome,
  type ToolFailure,
  type Used,
} from "./ledger.ts"

/** What came back from one sending. */
export type Answer = Used & AnswerKind

type AnswerKind =
  | { readonly kind: "result"; readonly result: JsonObject; readonly text: string }
  | {
      readonly kind: "tool_error"
      readonly error: ToolFailure
      /** Whether the retry policy names it, and allows another attempt. */
      readonly isRetryable: boolean
      readonly retryAfterMs?: number
    }
  /** The provider says that it worked, but what it returned cannot be used. */
  | {
      readonly kind: "unusable"
      readonly reason: "result_invalid" | "result_too_large"
      readonly message: string
    }
  /** The answer was larger than the service reads, so that nothing of it is known. */
  | { readonly kind: "oversized"; readonly message: string }
  /** The provider refused the call before any effect, and always will. */
  | { readonly kind: "refused"; readonly message: string }
  /** The call certainly never ran, and may later. */
  | (Failed & { readonly kind: "unsent" })
  /** The call may or may not have taken effect. */
  | (Failed & { readonly kind: "lost" })

interface Failed {
  readonly reason: string
  readonly message: string
  readonly retryAfterMs?: number
}

export interface Attempt {
  /** Whether an earlier sending under this key may have taken effect. */
  readonly maybeApplied: boolean
  /** Whether the provider was told to stop. */
  readonly isCancelled: boolean
}

/** What an attempt that ended nothing was. */
export interface AttemptFailure {
  readonly fault: "not_sent" | "lost" | "tool_error"
  readonly reason: string
  readonly message: string
  readonly retryAfterMs?: number
}

/** What follows an answer. `release` gives the row back, for the next request to send again. */
export type Next =
  | { readonly kind: "record"; readonly outcome: Outcome }
  | { readonly kind: "probe"; readonly failure: AttemptFailure }
  | { readonly kind: "release"; readonly maybeApplied: boolean; readonly failure: AttemptFailure }

/** Decides what follows an answer, by the effect class. */
export function afterAnswer(effect: Effect, answer: Answer, attempt: Attempt): Next {
  const next = decide(effect, answer, attempt)
  const { usage } = answer
  return usage === undefined || next.kind !== "record" ? next : record({ ...next.outcome, usage })
}

function decide(effect: Effect, answer: Answer, attempt: Attempt): Next {
  const before: Applied = attempt.maybeApplied ? "unknown" : "false"
  switch (answer.kind) {
    case "result":
      return record({ kind: "succeeded", result: answer.result, text: answer.text })
    case "tool_error":
      if (!answer.isRetryable || effect === "unsafe") {
        return record({ kind: "failed", error: answer.error })
      }
      return {
        kind: "release",
        maybeApplied: attempt.maybeApplied,
        failure: attemptFailure("tool_error", { ...answer, ...answer.error }),
      }
    case "unusable":
      return record(failure(answer.reason, answer.message, effect === "read" ? "false" : "true"))
    case "oversized":
      if (effect === "unsafe") {
        return {
          kind: "probe",
          failure: attemptFailure("lost", { ...answer, reason: "oversized" }),
        }
      }
      return record(
        failure("result_too_large", answer.message, effect === "read" ? "false" : "unknown"),
      )
    case "refused":
      return record(failure("not_executed", answer.message, before))
    case "unsent":
      return {
        kind: "release",
        maybeApplied: attempt.maybeApplied,
        failure: attemptFailure("not_sent", answer),
      }
    case "lost": {
      const failure = attemptFailure("lost", answer)
      const isAsked = effect === "unsafe" || (effect === "keyed" && attempt.isCancelled)
      if (isAsked) return { kind: "probe", failure } // (2)
      return { kind: "release", maybeApplied: true, failure }
    }
  }
}

/** What a provider tells about a call whose answer was lost. */
export type Report =
  | { readonly kind: "completed"; readonly answer: Answer }
  | { readonly kind: "not_executed" }
  | { readonly kind: "unknown" }

/** What a provider's report settles a call with; undefined where a keyed one stays open. */
export function settledBy(effect: Effect, report: Report): Outcome | undefined {
  const unknown: Outcome | undefined = effect === "unsafe" ? { kind: "outcome_unknown" } : undefined // (4)
  switch (report.kind) {
    case "not_executed":
      return failure("not_executed", "The provider says that the call never ran.", "false")
    case "unknown":
      return unknown
    case "completed": {
      const told = { ...report.answer, isRetryable: false }
      const next = afterAnswer(effect, told, { maybeApplied: true, isCancelled: true })
      return next.kind === "record" ? next.outcome : unknown
    }
  }
}

function attemptFailure(
  fault: AttemptFailure["fault"],
  { reason, message, retryAfterMs }: Failed,
): AttemptFailure {
  return { fault, reason, message, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
}

function record(outcome: Outcome): Next {
  return { kind: "record", outcome }
}
