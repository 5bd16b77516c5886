/** Tells watchers in this process that a run's history grew. A hint: they also look by themselves. */
export interface Notifier {
  notify(runId: string): void
  /** Resolves at the next notice, after the time, or when the signal aborts. */
  wait(runId: string, timeoutMs: number, signal: AbortSignal): Promise<void>
}

export function createNotifier(): Notifier {
  const waiting = new Map<string, Set<() => void>>()
  return {
    notify(runId) {
      for (const wake of waiting.get(runId) ?? []) wake()
    },
    async wait(runId, timeoutMs, signal) {
      if (signal.aborted) return
      const { promise, resolve } = Promise.withResolvers<void>()
      const wakers = waiting.get(runId) ?? new Set()
      waiting.set(runId, wakers.add(resolve))
      const timer = setTimeout(resolve, timeoutMs)
      signal.addEventListener("abort", () => resolve(), { once: true })
      await promise
      clearTimeout(timer)
      wakers.delete(resolve)
      if (wakers.size === 0) waiting.delete(runId)
    },
  }
}
