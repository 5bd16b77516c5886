import type { ConnectError } from "@connectrpc/connect"
import { longestTimeoutMs } from "./deadline.ts"
import { RunwardenError, toConnectError } from "./errors.ts"

/** The life of one outgoing call: it ends by its answer, by its caller, or by `abort`. */
export interface CallSignal {
  /** Aborted when the caller gives up or stops reading; the far side's work hangs on it. */
  readonly signal: AbortSignal
  /** Settles as `work` does, or rejects at once when the caller gives up. */
  race<T>(work: Promise<T>): Promise<T>
  /**
   * Passes messages on until they end. Leaving the loop early aborts the call; so does the caller's
   * signal, which ends a pending read at once. Errors pass through
   * `convert`.
   */
  guard<T>(messages: AsyncIterable<T>, convert?: (error: unknown) => ConnectError): AsyncIterable<T>
  /** Aborts the call: nobody waits for it any more. */
  abort(): void
  /** Lets go of the caller's signal. Called once the call has ended. */
  release(): void
}

/**
 * Creates the signal of one outgoing call below the caller's. The call always has a signal of its
 * own, so that listeners which the far side forgets die with the call and do not gather on a
 * caller's signal that lives as long as the process. A timeout above 0 ends the call as well; unary
 * calls leave theirs to the deadline interceptor or to the channel.
 */
export function callSignal(caller: AbortSignal | undefined, timeoutMs = 0): CallSignal {
  const controller = new AbortController()
  const { signal } = controller
  const onAbort = () => controller.abort(caller?.reason)
  if (caller?.aborted === true) onAbort()
  else caller?.addEventListener("abort", onAbort)
  const delay = Math.min(timeoutMs, longestTimeoutMs)
  const timer = delay > 0 ? setTimeout(() => controller.abort(timedOut), delay) : undefined

  function abort() {
    release()
    // A reason of our own: the default one is a DOMException, whose stack costs microseconds.
    if (!signal.aborted) controller.abort(stoppedReading)
  }

  function release() {
    clearTimeout(timer)
    caller?.removeEventListener("abort", onAbort)
  }

  function race<T>(work: Promise<T>): Promise<T> {
    if (caller === undefined && timer === undefined) return work
    return new Promise<T>((resolve, reject) => {
      const onGivenUp = () => reject(givenUp(signal.reason))
      const settled = () => signal.removeEventListener("abort", onGivenUp)
      work.then(resolve, reject).finally(settled)
      if (signal.aborted) onGivenUp()
      else signal.addEventListener("abort", onGivenUp)
    })
  }

  function guard<T>(
    messages: AsyncIterable<T>,
    convert?: (error: unknown) => ConnectError,
  ): AsyncIterable<T> {
    const source = messages[Symbol.asyncIterator]()
    let isOver = false
    let isLetGo = false
    // The far side may be inside a wait, and answers a return only after it: nobody waits for it.
    function letGo() {
      if (isLetGo) return
      isLetGo = true
      signal.removeEventListener("abort", letGo)
      source.return?.().catch(() => undefined)
    }
    function end() {
      if (isOver) return
      isOver = true
      abort()
      letGo()
    }
    // Whoever stops reading between two messages has no read under way that would see it.
    if (!signal.aborted) signal.addEventListener("abort", letGo)
    const iterator: AsyncIterableIterator<T> = {
      async next() {
        if (isOver) return { done: true, value: undefined }
        try {
          const result = await race(source.next())
          if (result.done === true) end()
          return result
        } catch (error) {
          end()
          throw convert === undefined ? error : convert(error)
        }
      },
      async return() {
        end()
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator,
    }
    return iterator
  }

  return { signal, race, guard, abort, release }
}

/**
 * What a caller gets that gave up: its own reason where that is a RunwardenError, DEADLINE_EXCEEDED
 * where a timer gave up for it, CANCELLED otherwise.
 */
export function givenUp(reason: unknown): ConnectError {
  if (reason instanceof RunwardenError) return toConnectError(reason)
  const isTimeout = reason instanceof Error && reason.name === "TimeoutError"
  const error = isTimeout ? "DEADLINE_EXCEEDED" : "CANCELLED"
  return toConnectError(new RunwardenError(error, {}, { cause: reason }))
}

const stoppedReading = new Error("the caller stopped reading")
const timedOut = new DOMException("the deadline has passed", "TimeoutError")
