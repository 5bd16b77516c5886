/**
 * The right of this replica to write to one run.
 *
 * States: held → lost (another replica may have the run: nothing more may be sent or written) or
 * ended (this replica has no more to do).
 *
 * 1. A lease that was not renewed for two thirds of its time counts as lost, whatever the database
 *    would say: the last third is for what is on its way.
 *    Time counts from before the database was asked, which is never later than its own count.
 * 2. The epoch goes into every write and every execution, so that even a lost lease that nobody
 *    noticed changes nothing.
 */
import { type Expiring, forgetDeadline, watchDeadline } from "../../../mesh/deadline-timers.ts"
import { Scope } from "../scope.ts"
import type { Claim } from "./claim-store.ts"

export class Lease implements Expiring {
  readonly workspaceId: string
  readonly runId: string
  readonly epoch: number
  /** Ends when nothing more may be sent or written. */
  readonly lost = new Scope()
  /** Ends with the lease, and when the executing call is no longer wanted. */
  readonly stopped = new Scope()
  readonly #heldMs: number
  #heldUntil = 0
  #slot = 0
  #deadline: RunDeadline | undefined

  /** `askedAt`: when the database was asked for the lease, by the monotonic clock. */
  constructor(
    claim: Pick<Claim, "workspaceId" | "runId" | "epoch">,
    leaseMs: number,
    askedAt: number,
  ) {
    this.workspaceId = claim.workspaceId
    this.runId = claim.runId
    this.epoch = claim.epoch
    this.#heldMs = (leaseMs * 2) / 3
    this.renew(askedAt)
  }

  /** Throws where nothing more may be sent or written. */
  check(): void {
    if (performance.now() >= this.#heldUntil) this.lose()
    this.lost.throwIfEnded()
  }

  /** Takes note of a renewal that was asked for at `askedAt`, by the monotonic clock. */
  renew(askedAt: number): void {
    if (this.lost.isEnded) return
    forgetDeadline(this.#slot, this)
    this.#heldUntil = askedAt + this.#heldMs
    const left = this.#heldUntil - performance.now()
    if (left > 0) {
      this.#slot = watchDeadline(left, this)
      this.#deadline?.look(left)
    } else {
      this.lose()
    }
  }

  /** Stops the executing call at a time of the monotonic clock. */
  stopAt(deadline: number): void {
    this.#deadline = new RunDeadline(deadline, () => this.cancel())
    this.#deadline.look(this.#heldUntil - performance.now())
  }

  /** The time that this replica believes in has come. */
  expire(): void {
    this.lose()
  }

  lose(): void {
    const reason = new LeaseLost(this.runId)
    this.lost.end(reason)
    this.stopped.end(reason)
    this.end()
  }

  cancel(): void {
    this.stopped.end(notWanted)
  }

  end(): void {
    forgetDeadline(this.#slot, this)
    this.#deadline?.forget()
  }
}

/** This replica must leave the run alone from now on. */
export class LeaseLost extends Error {
  constructor(runId: string) {
    super(`the lease of run ${runId} is lost`)
  }
}

const notWanted = new Error("the call is no longer wanted")

/**
 * When a run has had its time. Almost all of them are days away, so that a timer is set only once
 * the deadline comes before the next renewal.
 */
class RunDeadline implements Expiring {
  readonly #at: number
  readonly #stop: () => void
  #slot: number | undefined

  constructor(at: number, stop: () => void) {
    this.#at = at
    this.#stop = stop
  }

  look(withinMs: number): void {
    const left = this.#at - performance.now()
    if (this.#slot === undefined && left <= withinMs) {
      this.#slot = watchDeadline(Math.max(0, left), this)
    }
  }

  expire(): void {
    this.#stop()
  }

  forget(): void {
    if (this.#slot !== undefined) forgetDeadline(this.#slot, this)
  }
}
