/** Whether and when a call whose attempt ended nothing is sent again. Pure but for the jitter. */
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt"
import { AttemptFault, type FailedAttempt } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { retryDelay } from "../pause.ts"
import type { ToolCallRecord } from "../run/snapshot.ts"

/** How long to wait before the next attempt; undefined where there is none. */
export function waitBeforeRepeat(
  { fault, retry, retryAfter }: FailedAttempt,
  effect: ToolCallRecord["effect"],
  attempts: number,
): number | undefined {
  // A call that may have been sent is the provider's or a person's to settle, whatever a policy says.
  const isSafe = fault === AttemptFault.NOT_SENT || effect !== "unsafe"
  if (!isSafe || retry === undefined || attempts >= retry.maxAttempts) return undefined
  const { initialBackoff, maxBackoff } = retry
  const backoffMs = retryDelay(millisOf(initialBackoff), attempts, millisOf(maxBackoff))
  return Math.max(millisOf(retryAfter), backoffMs)
}

function millisOf(duration: Duration | undefined): number {
  return duration === undefined ? 0 : durationMs(duration)
}
