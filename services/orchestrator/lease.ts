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
import type { Claim } from "./claim-store.ts"

export class Lease {
  readonly workspaceId: string
  readonly runId: string
  readonly epoch: number
  readonly #leaseMs: number
  readonly #lost = new AbortController()
  readonly #cancel = new AbortController()
  #timer: NodeJS.Timeout | undefined

  /** `askedAt`: when the database was asked for the lease, by the monotonic clock. */
  constructor(
    claim: Pick<Claim, "workspaceId" | "runId" | "epoch">,
    leaseMs: number,
    askedAt: number,
  ) {
    this.workspaceId = claim.workspaceId
    this.runId = claim.runId
    this.epoch = claim.epoch
    this.#leaseMs = leaseMs
    this.renew(askedAt)
  }

  /** Aborts when nothing more may be sent or written. */
  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** Aborts when the executing call must stop: the run was cancelled, or its deadline passed. */
  get cancelled(): AbortSignal {
    return this.#cancel.signal
  }

  /** Takes note of a renewal that was asked for at `askedAt`, by the monotonic clock. */
  renew(askedAt: number): void {
    clearTimeout(this.#timer)
    const left = askedAt + (this.#leaseMs * 2) / 3 - performance.now()
    if (left > 0) this.#timer = setTimeout(() => this.lose(), left)
    else this.lose()
  }

  lose(): void {
    this.#lost.abort(new LeaseLost(this.runId))
    this.end()
  }

  cancel(): void {
    this.#cancel.abort(new Error("the call is no longer wanted"))
  }

  end(): void {
    clearTimeout(this.#timer)
  }
}

/** This replica must leave the run alone from now on. */
export class LeaseLost extends Error {
  constructor(runId: string) {
    super(`the lease of run ${runId} is lost`)
  }
}
