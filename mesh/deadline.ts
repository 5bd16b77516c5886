/**
 * Deadlines travel as durations. Within a process they are times of its monotonic clock, that of
 * `performance.now()`, so that a jump of the wall clock neither ends a call nor prolongs it.
 */
import { type ContextKey, type ContextValues, createContextKey } from "@connectrpc/connect"

/**
 * The deadline of a request by the monotonic clock, set by each server transport; undefined where the
 * caller sent none.
 */
export const deadlineKey: ContextKey<number | undefined> = createContextKey<number | undefined>(
  undefined,
  { description: "the deadline of the request" },
)

/** What a call gets that brought no deadline. */
export const defaultTimeoutMs = 10_000

/** The longest deadline that a unary call may bring; a longer one is shortened to it. */
export const maxTimeoutMs = 60_000

/**
 * The longest deadline of a stream, a day. Beyond 24 days a timer fires at once, and beyond 27 hours
 * gRPC's eight digits of milliseconds are not enough.
 */
export const longestTimeoutMs = 86_400_000

/** What a hop keeps for itself of the deadline it passes on. */
export const hopReserveMs = 50

/** What is left of a request's time; undefined where its caller sent no deadline. */
export function remainingMs({ values }: { readonly values: ContextValues }): number | undefined {
  const deadline = values.get(deadlineKey)
  return deadline === undefined ? undefined : deadline - performance.now()
}

/** A deadline as gRPC takes it, which makes a duration of it at once. */
export function toWallClock(deadline: number): number {
  return Date.now() + (deadline - performance.now())
}

/** A deadline as gRPC gives it, which has just made it of a duration. */
export function fromWallClock(time: Date | number): number {
  return performance.now() + (Number(time) - Date.now())
}
