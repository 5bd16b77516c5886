/**
 * Owns: the sendings of this replica that are on their way, and the renewal of their leases.
 *
 * States of a sending: running → stopped (cancelled: somebody asked for it; lost: its lease may have
 * ended, or another request has its row) → ended.
 *
 * 1. A lease counts from before the database was asked for it, by the monotonic clock, and as ended
 *    after two thirds of its time: the last third is for what is on its way.
 * 2. Nothing is looked up for a call that takes less than a tick.
 * 3. The database not answering keeps no sending from being stopped in time.
 */
import type { Database } from "../../../mesh/database.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { renewExecutions, type Watched, watchExecutions } from "./execution-group-store.ts"
import type { ExecutionKey } from "./execution-store.ts"

/** Why a sending must stop. */
export type StopReason = "cancelled" | "lost"

/** A sending that is on its way. Disposal says that it has ended. */
export interface RunningCall extends Disposable {
  /** Aborts when the sending must stop. */
  readonly signal: AbortSignal
  readonly stopped: StopReason | undefined
  /** Stops with a signal of its caller. */
  follow(caller: AbortSignal): void
}

export interface RunningCalls extends Disposable {
  /** Takes note of a sending that holds a lease since `leasedAt`; it may be stopped already. */
  begin(key: ExecutionKey, attempt: number, leasedAt: number): RunningCall
  /** Stops the sending of a key, if it is one of this replica's. */
  cancel(key: ExecutionKey): void
  /** Stops all. */
  stopAll(): void
}

const ticksPerLease = 20

class Sending implements RunningCall {
  readonly key: ExecutionKey
  readonly attempt: number
  readonly startedAt = performance.now()
  leasedAt: number
  stopped: StopReason | undefined
  readonly #controller = new AbortController()
  readonly #ended: (sending: Sending) => void
  readonly #onCallerGone = () => this.stop("cancelled")
  #caller: AbortSignal | undefined

  constructor(
    key: ExecutionKey,
    attempt: number,
    leasedAt: number,
    ended: (sending: Sending) => void,
  ) {
    this.key = key
    this.attempt = attempt
    this.leasedAt = leasedAt
    this.#ended = ended
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  stop(reason: StopReason): void {
    if (this.stopped !== undefined) return
    this.stopped = reason
    this.#controller.abort(new Error(`the sending is ${reason}`))
  }

  follow(caller: AbortSignal): void {
    this.#caller = caller
    caller.addEventListener("abort", this.#onCallerGone)
    if (caller.aborted) this.#onCallerGone()
  }

  [Symbol.dispose](): void {
    this.#caller?.removeEventListener("abort", this.#onCallerGone)
    this.#ended(this)
  }
}

export function createRunningCalls(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly leaseMs: number
}): RunningCalls {
  const { database, runtime, leaseMs } = deps
  const tickMs = leaseMs / ticksPerLease
  const sendings = new Set<Sending>()
  let timer: NodeJS.Timeout | undefined
  let isLooking = false

  function arm(): void {
    if (timer !== undefined || sendings.size === 0) return
    timer = setTimeout(() => {
      timer = undefined
      tick()
      arm()
    }, tickMs)
  }

  function tick(): void {
    const now = performance.now()
    const old: Sending[] = []
    for (const sending of sendings) {
      if (isOver(sending, now)) sending.stop("lost")
      else if (now - sending.startedAt >= tickMs) old.push(sending) // (2)
    }
    if (old.length === 0 || isLooking) return
    isLooking = true
    look(old, now)
      .catch((error: unknown) => runtime.log.warn({ err: error }, "leases not renewed"))
      .finally(() => {
        isLooking = false
      })
  }

  function isOver({ leasedAt }: Sending, now: number): boolean {
    return now - leasedAt >= (leaseMs * 2) / 3 // (1)
  }

  async function look(old: readonly Sending[], now: number): Promise<void> {
    const isDue = ({ leasedAt }: Sending) => now - leasedAt >= leaseMs / 3
    const due = old.filter(isDue)
    const others = old.filter((sending) => !isDue(sending))
    if (others.length > 0) apply(others, await watchExecutions(database, others.map(toItem)))
    if (due.length === 0) return
    const askedAt = performance.now()
    const renewed = await renewExecutions(database, due.map(toItem), leaseMs)
    runtime.reached("during_heartbeat")
    for (const sending of due) sending.leasedAt = askedAt
    apply(due, renewed)
  }

  function apply(looked: readonly Sending[], found: readonly Watched[]): void {
    looked.forEach((sending, index) => {
      const state = found[index]
      if (sendings.has(sending) && state !== "mine") sending.stop(state ?? "lost")
    })
  }

  return {
    begin(key, attempt, leasedAt) {
      const sending = new Sending(key, attempt, leasedAt, (ended) => sendings.delete(ended))
      if (isOver(sending, performance.now())) sending.stop("lost")
      sendings.add(sending)
      arm()
      return sending
    },
    cancel(key) {
      for (const sending of sendings) if (isSame(sending.key, key)) sending.stop("cancelled")
    },
    stopAll() {
      for (const sending of sendings) sending.stop("lost")
    },
    [Symbol.dispose]() {
      clearTimeout(timer)
    },
  }
}

function toItem({ key, attempt }: Sending) {
  return { ...key, attempt }
}

function isSame(one: ExecutionKey, other: ExecutionKey): boolean {
  return (
    one.idempotencyKey === other.idempotencyKey &&
    one.workspaceId === other.workspaceId &&
    one.tool === other.tool
  )
}
