/** How long a call may be carried out: as long as its run wants it, and no longer than its own time. */

import type { Clock, ToolCallRecord } from "../run/snapshot.ts"
import { Scope } from "../scope.ts"

export interface CallTime extends Disposable {
  /** Ends when the call must stop. */
  readonly scope: Scope
  /** Whether it must because its own time is over. */
  readonly isOver: () => boolean
  /** How much of its own time is left, in milliseconds; infinite where it has none. */
  readonly leftMs: () => number
}

/**
 * The time counts from when the call was admitted, whoever carries it out. A call without a time of
 * its own gets the run's scope as it is.
 */
export function callTime(
  wanted: Scope,
  { timeoutMs, startTime }: Pick<ToolCallRecord, "timeoutMs" | "startTime">,
  clock: Clock,
): CallTime {
  if (timeoutMs === undefined) {
    return {
      scope: wanted,
      isOver: () => false,
      leftMs: () => Number.POSITIVE_INFINITY,
      [Symbol.dispose]: () => {},
    }
  }
  const scope = new Scope()
  const { signal } = wanted
  const stop = () => scope.end(signal.reason)
  if (signal.aborted) stop()
  signal.addEventListener("abort", stop)
  const end = (startTime?.getTime() ?? clock.now()) + timeoutMs
  const leftMs = () => Math.max(0, end - clock.now())
  const timer = setTimeout(() => scope.end("the call's time is over"), leftMs())
  return {
    scope,
    isOver: () => scope.isEnded && !wanted.isEnded,
    leftMs,
    [Symbol.dispose]() {
      clearTimeout(timer)
      signal.removeEventListener("abort", stop)
    },
  }
}
