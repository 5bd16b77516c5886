import { type ContextKey, createContextKey } from "@connectrpc/connect"

/**
 * The deadline of a request in milliseconds of the epoch, set by each server transport; undefined
 * where the caller sent none.
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
