/**
 * Which failed calls certainly never reached the peer. Only what carries them can say so. The word of
 * a gRPC channel is told from a peer's by the metadata, of which every answer that came over a
 * connection has some, in its headers or, where it has none, in its trailers.
 */
import type { StatusObject } from "@grpc/grpc-js"

const unsent = new WeakSet<object>()

const noConnection =
  /^((round_robin: )?No connection established\. Last error: |Name resolution failed for target |Stream refused by server$)/
const stillWaiting =
  /,(waiting for name resolution|waiting for metadata filters|Waiting for LB pick)$/
const earlierAttempts = "previous attempts: "

/** Notes of an error, made of this status and without headers before it, whether its call never left. */
export function noteIfUnsent(error: object, { metadata, details }: StatusObject): void {
  if (Object.keys(metadata.getMap()).length > 0) return
  const isWaiting = stillWaiting.test(details) && !details.includes(earlierAttempts)
  if (isWaiting || noConnection.test(details)) unsent.add(error)
}

/** Notes of an error that its call never left, and returns it: for whoever carries calls by itself. */
export function neverSent<E extends Error>(error: E): E {
  unsent.add(error)
  return error
}

/** Whether a call failed without ever having left, whatever its error was wrapped into since. */
export function wasNeverSent(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (unsent.has(cause)) return true
  }
  return false
}
