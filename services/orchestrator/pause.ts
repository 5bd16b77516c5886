import { setTimeout as sleep } from "node:timers/promises"

/** Waits, or returns at once when the signal aborts. */
export async function pause(waitMs: number, signal: AbortSignal): Promise<void> {
  await sleep(waitMs, undefined, { signal }).catch(() => {})
}

const maxDelayMs = 5_000

/** The wait before the next attempt: doubling, with full jitter above its half. */
export function retryDelay(firstMs: number, failures: number, longestMs = maxDelayMs): number {
  const doubled = firstMs * 2 ** Math.min(Math.max(failures - 1, 0), 16)
  return Math.min(longestMs, doubled) * (0.5 + Math.random() / 2)
}
