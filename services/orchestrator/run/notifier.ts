/**
 * Tells watchers in this process that a run's history grew. A hint: they also look by themselves.
 *
 * A notice that comes while its listener looks is kept for its next wait, so that none is slept
 * through; what a listener left behind goes with it.
 */
export interface Notifier {
  notify(runId: string): void
  listen(runId: string): Listener
}

export interface Listener extends Disposable {
  /** Resolves at the first notice since the last wait, after the time, or when the signal aborts. */
  wait(timeoutMs: number, signal: AbortSignal): Promise<void>
}

export function createNotifier(): Notifier {
  const listeners = new Map<string, Set<() => void>>()
  return {
    notify(runId) {
      for (const notice of listeners.get(runId) ?? []) notice()
    },
    listen(runId) {
      let noticed = Promise.withResolvers<void>()
      const notice = () => noticed.resolve()
      const others = listeners.get(runId) ?? new Set()
      listeners.set(runId, others.add(notice))
      return {
        async wait(timeoutMs, signal) {
          if (signal.aborted) return
          const timer = setTimeout(notice, timeoutMs)
          signal.addEventListener("abort", notice)
          await noticed.promise
          clearTimeout(timer)
          signal.removeEventListener("abort", notice)
          noticed = Promise.withResolvers<void>()
        },
        [Symbol.dispose]() {
          others.delete(notice)
          if (others.size === 0) listeners.delete(runId)
        },
      }
    },
  }
}
