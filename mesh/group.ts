/**
 * Owns: items that wait to be handled together, and the runs that handle them.
 *
 * 1. Every item is in one run at a time, and its caller is answered by the run that finished it.
 * 2. A run that fails has done nothing for any of its items (it is one transaction), so that its
 *    halves may be run again: what fails alone is what its item fails with.
 * 3. Nothing is split for a database that cannot be used: the halves would only wait as long again.
 * 4. Who stops waiting before the run takes its item out; who stops later only no longer waits.
 */
import { type Context, context } from "@opentelemetry/api"
import { RunwardenError, reasonOf } from "./errors.ts"

/** `name` stands in errors; `run` answers one result per item, in order, and does all or nothing. */
export interface GroupOptions<I, R> {
  readonly name: string
  /** Most items of one run; 256 if not given. */
  readonly maxItems?: number
  /** Most runs at the same time; 2 if not given. */
  readonly maxInFlight?: number
  run(items: readonly I[]): Promise<readonly R[]>
}

/** Handles together what is due at the same moment. */
export interface Group<I, R> extends AsyncDisposable {
  /**
   * Resolves when a run has handled the item, and rejects with what it failed with: CANCELLED when
   * `signal` aborts first, SHUTTING_DOWN after disposal.
   */
  add(item: I, signal?: AbortSignal): Promise<R>
}

interface Waiting<I, R> {
  readonly item: I
  readonly resolve: (result: R) => void
  readonly reject: (error: unknown) => void
}

/**
 * Makes a group. It gathers what is added in one turn of the event loop and for as long as
 * `maxInFlight` runs are busy, so that it adds no wait of its own. Disposal takes nothing more and
 * waits for all that was added.
 */
export function createGroup<I, R>({
  name,
  maxItems = 256,
  maxInFlight = 2,
  run,
}: GroupOptions<I, R>): Group<I, R> {
  const waiting: Waiting<I, R>[] = []
  let firstContext: Context | undefined
  let inFlight = 0
  let isScheduled = false
  let isEnded = false
  let onIdle: (() => void) | undefined

  function schedule(): void {
    if (isScheduled || waiting.length === 0 || inFlight >= maxInFlight) return
    isScheduled = true
    setImmediate(flush)
  }

  function flush(): void {
    isScheduled = false
    while (waiting.length > 0 && inFlight < maxInFlight) {
      const items = waiting.splice(0, maxItems)
      inFlight++
      // A run hangs below the first who waits for it, not below whoever happened to wake it.
      void context.with(firstContext ?? context.active(), handle, undefined, items).then(onHandled)
    }
    firstContext = undefined
  }

  function onHandled(): void {
    inFlight--
    schedule()
    reportIdle()
  }

  function reportIdle(): void {
    if (inFlight === 0 && waiting.length === 0) onIdle?.()
  }

  async function handle(items: readonly Waiting<I, R>[]): Promise<void> {
    let results: readonly R[]
    try {
      results = await run(items.map(({ item }) => item))
    } catch (error) {
      if (items.length === 1 || reasonOf(error) === "DEPENDENCY_UNAVAILABLE") {
        for (const { reject } of items) reject(error)
        return
      }
      const middle = items.length >> 1
      await handle(items.slice(0, middle))
      await handle(items.slice(middle))
      return
    }
    const answered = results.length
    const isComplete = answered === items.length
    items.forEach(({ resolve, reject }, index) => {
      if (isComplete) resolve(results[index] as R)
      else reject(new Error(`group ${name} answered ${answered} of ${items.length} items`))
    })
  }

  function enter(item: I): { readonly entry: Waiting<I, R>; readonly result: Promise<R> } {
    const { promise, resolve, reject } = Promise.withResolvers<R>()
    const entry = { item, resolve, reject }
    firstContext ??= context.active()
    waiting.push(entry)
    schedule()
    return { entry, result: promise }
  }

  function leave(entry: Waiting<I, R>, signal: AbortSignal): void {
    const index = waiting.indexOf(entry)
    if (index >= 0) waiting.splice(index, 1)
    entry.reject(cancelled(signal))
    reportIdle()
  }

  return {
    add(item, signal) {
      if (isEnded) return Promise.reject(new RunwardenError("SHUTTING_DOWN", { service: name }))
      if (signal === undefined) return enter(item).result
      if (signal.aborted) return Promise.reject(cancelled(signal))
      const { entry, result } = enter(item)
      const onAbort = () => leave(entry, signal)
      signal.addEventListener("abort", onAbort, { once: true })
      return result.finally(() => signal.removeEventListener("abort", onAbort))
    },
    async [Symbol.asyncDispose]() {
      isEnded = true
      if (inFlight === 0 && waiting.length === 0) return
      await new Promise<void>((resolve) => {
        onIdle = resolve
      })
    },
  }
}

function cancelled(signal: AbortSignal): RunwardenError {
  return new RunwardenError("CANCELLED", {}, { cause: signal.reason })
}
