import { givenUp } from "./call-signal.ts"
import { longestTimeoutMs } from "./deadline.ts"
import { forgetDeadline, watchDeadline } from "./deadline-timers.ts"
import { RunwardenError } from "./errors.ts"

/**
 * The life of one unary call in this process, for both of its sides: it ends by its answer, by its
 * caller, or by its deadline, whichever is first, and then aborts the handler's signal unless it was
 * answered. The signal is made only for a handler that asks for it.
 */
export class CallLife {
  readonly #caller: AbortSignal | undefined
  readonly #slot: number
  readonly #onAbort: () => void
  #state: "open" | "answered" | "ended" = "open"
  #reason: unknown
  #controller: AbortController | undefined
  #reject: (reason: unknown) => void = ignore

  /** `delayMs` is the time to the deadline. */
  constructor(caller: AbortSignal | undefined, delayMs: number) {
    this.#caller = caller
    this.#slot = watchDeadline(Math.min(Math.max(0, delayMs), longestTimeoutMs), this)
    this.#onAbort = () => this.end(this.#caller?.reason)
    if (caller === undefined) return
    if (caller.aborted) this.end(caller.reason)
    else caller.addEventListener("abort", this.#onAbort)
  }

  /** Aborted when nobody waits for the answer any more. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#state === "ended") this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  /** Settles as `work` does, or rejects at once when the life ends before. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#state === "ended") {
        work.catch(ignore)
        reject(givenUp(this.#reason))
        return
      }
      this.#reject = reject
      work.then(
        (answer) => {
          if (this.#leave("answered")) resolve(answer)
        },
        (error) => {
          if (this.#leave("ended", error)) reject(error)
        },
      )
    })
  }

  /** Called by the deadline. */
  expire(): void {
    this.end(new RunwardenError("DEADLINE_EXCEEDED"))
  }

  /** Ends the life with a reason, unless it has ended. */
  end(reason: unknown): void {
    if (this.#leave("ended", reason)) this.#reject(givenUp(reason))
  }

  /** True for the one that leaves first. */
  #leave(state: "answered" | "ended", reason?: unknown): boolean {
    if (this.#state !== "open") return false
    this.#state = state
    this.#reason = reason
    forgetDeadline(this.#slot, this)
    this.#caller?.removeEventListener("abort", this.#onAbort)
    if (state === "ended") this.#controller?.abort(reason)
    return true
  }
}

function ignore(): void {}
