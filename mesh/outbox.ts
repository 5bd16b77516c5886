/**
 * Owns: bringing what the outbox of one topic holds to its receiver, at least once.
 *
 * A workspace is `waiting → claimed → delivered`, or `claimed → backing off → waiting`.
 *
 * 1. An item is deleted only after `deliver` resolved for it.
 * 2. One drainer has a workspace at a time, by a lease on the database's clock, and gives up well
 *    before the lease ends; so a workspace's items arrive in the order of their commits.
 * 3. Nothing is delivered inside a transaction.
 * 4. A workspace that fails waits by itself; the others are claimed past it, round by round.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "./database.ts"
import { newId } from "./ids.ts"
import {
  type Claim,
  claimWorkspaces,
  loadBatch,
  type OutboxItem,
  postpone,
  settle,
} from "./outbox-store.ts"
import type { Runtime } from "./service.ts"

export { enqueue, type OutboxItem } from "./outbox-store.ts"

/** What drains an outbox. Limits have defaults that suit a call of at most 256 KB. */
export interface OutboxDeps {
  readonly database: Database
  readonly runtime: Pick<Runtime, "name" | "log" | "reached">
  readonly topic: string
  /** Sends items of one workspace, oldest first. Whatever it throws, they are sent again later. */
  deliver(workspaceId: string, items: readonly OutboxItem[], signal: AbortSignal): Promise<void>
  /** How soon to look again without being poked; ever later, up to tenfold, while there is nothing. */
  readonly pollMs?: number
  readonly maxItems?: number
  readonly maxBytes?: number
  readonly leaseMs?: number
  /** The first wait after a failure; it doubles up to a minute. */
  readonly backOffMs?: number
}

/** `poke` says that something was just committed. Disposal gives deliveries a moment to end, then aborts them. */
export interface Outbox extends AsyncDisposable {
  start(): void
  poke(): void
}

const maxWorkspacesAtOnce = 8
const pageSize = 200
const firstId = "00000000-0000-0000-0000-000000000000"
const maxBackOffMs = 60_000
const drainGraceMs = 2_000

/** Makes a drainer; any number of them, in any number of processes, may share one outbox. */
export function createOutbox(deps: OutboxDeps): Outbox {
  const { pollMs = 500, leaseMs = 30_000, maxItems = 256, maxBytes = 160 * 1024 } = deps
  const { database, runtime, topic } = deps
  const owner = newId()
  const stop = new AbortController()
  const abandon = new AbortController()
  const inFlight = new Set<Promise<void>>()
  let wake = Promise.withResolvers<void>()
  let loop: Promise<void> | undefined
  let after = firstId
  /** Looks in a row that found nothing. */
  let idleLooks = 0

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      const claimed = await claim().catch((error: unknown) => {
        if (!stop.signal.aborted) runtime.log.warn({ err: error, topic }, "outbox claim failed")
        return 0
      })
      if (claimed > 0) idleLooks = 0
      if (inFlight.size >= maxWorkspacesAtOnce) await Promise.race(inFlight)
      else if (claimed === 0 && after === firstId) await pause()
    }
  }

  async function claim(): Promise<number> {
    const limit = maxWorkspacesAtOnce - inFlight.size
    const options = { topic, owner, leaseMs, limit, after, pageSize, signal: stop.signal }
    const { claims, seen } = await claimWorkspaces(database, options)
    after = seen ?? firstId
    for (const each of claims) {
      const task = drain(each).finally(() => {
        inFlight.delete(task)
        poke()
      })
      inFlight.add(task)
    }
    return claims.length
  }

  async function drain({ workspaceId, attempts }: Claim): Promise<void> {
    const signal = AbortSignal.any([
      abandon.signal,
      AbortSignal.timeout(Math.ceil((leaseMs * 2) / 3)),
    ])
    try {
      const batch = await loadBatch(database, { topic, workspaceId, maxItems, maxBytes, signal })
      if (batch.items.length > 0) {
        await untilAborted(signal, deps.deliver(workspaceId, batch.items, signal))
        runtime.reached("during_outbox_publish")
      }
      await settle(database, { topic, workspaceId, owner, positions: batch.positions })
    } catch (error) {
      const isFailure = !abandon.signal.aborted
      const backOffMs = isFailure ? backOff(attempts, deps.backOffMs ?? 250) : 0
      if (isFailure) {
        runtime.log.warn(
          { err: error, topic, workspaceId, attempts, backOffMs },
          "outbox delivery failed",
        )
      }
      // Where this fails too, the lease ends by itself.
      const postponed = postpone(database, { topic, workspaceId, owner, backOffMs, isFailure })
      await postponed.catch(() => {})
    }
  }

  async function pause(): Promise<void> {
    const poked = wake.promise
    const timer = new AbortController()
    const signal = AbortSignal.any([stop.signal, timer.signal])
    const waitMs = pollMs * Math.min(2 ** idleLooks, 10) * (0.75 + Math.random() / 4)
    idleLooks++
    await Promise.race([poked, sleep(waitMs, undefined, { signal }).catch(() => {})])
    timer.abort()
    wake = Promise.withResolvers<void>()
  }

  function poke(): void {
    idleLooks = 0
    wake.resolve()
  }

  return {
    start() {
      loop ??= run()
    },
    poke,
    async [Symbol.asyncDispose]() {
      stop.abort()
      await loop
      const grace = new AbortController()
      const gaveUp = sleep(drainGraceMs, undefined, { signal: grace.signal }).catch(() => {})
      await Promise.race([Promise.all(inFlight), gaveUp])
      grace.abort()
      abandon.abort()
      await Promise.all(inFlight)
    },
  }
}

function backOff(attempts: number, firstMs: number): number {
  return Math.min(maxBackOffMs, firstMs * 2 ** Math.min(attempts, 20)) * (0.5 + Math.random() / 2)
}

/** Settles when the signal aborts, also for work that does not listen to it. */
function untilAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason)
  signal.addEventListener("abort", onAbort, { once: true })
  if (signal.aborted) onAbort()
  return Promise.race([promise, work]).finally(() => signal.removeEventListener("abort", onAbort))
}
