import { setTimeout as sleep } from "node:timers/promises"

/** Waits, or returns at once when the signal aborts. */
export async function pause(waitMs: number, signal: AbortSignal): Promise<void> {
  await sleep(waitMs, undefined, { signal }).catch(() => {})
}

const maxDelayMs = 5_000

/** The wait before the next attempt: doubling, with full jitter above its half. */
export function retryDelay(firstMs: number, failures: number): number {
  return Math.min(maxDelayMs, firstMs * 2 ** Math.min(failures - 1, 16)) * (0.5 + Math.random() / 2)
}
