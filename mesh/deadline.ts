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

/** What a hop keeps for itself of the deadline it passes on. */
export const hopReserveMs = 50
