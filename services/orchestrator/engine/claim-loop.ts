/**
 * The look for runs that are due, again and again.
 *
 * Owns: the loop, and where in the round of workspaces it is.
 *
 * 1. A look takes a few runs at once, and the next one comes a moment later: when everything is due
 *    after a restart, what the runs lean on is not asked for all of it at once.
 * 2. The wait between two looks is as long as until the next run is due, and never longer than the
 *    poll, with jitter: what another replica makes due is seen by then.
 * 3. Looking never waits for what was found.
 */
import type { Logger } from "pino"
import type { Database } from "../../../mesh/database.ts"
import { pause } from "../pause.ts"
import { type Claim, claimDue, type Look } from "./claim-store.ts"

export interface ClaimLoopDeps {
  readonly database: Database
  readonly log: Logger
  readonly owner: string
  readonly leaseMs: number
  readonly pollMs: number
  /** How many more runs this replica has a place for. */
  room(): number
  /** `askedAt`: when the database was asked, by the monotonic clock. */
  take(claim: Claim, askedAt: number): void
  /** The run was cancelled elsewhere. */
  cancel(runId: string): void
}

export interface ClaimLoop {
  /** Looks until the signal aborts. */
  run(signal: AbortSignal): Promise<void>
  /** Says that a run may have become due. */
  poke(): void
  /** Says that a run becomes due by then. */
  dueIn(waitMs: number): void
  /** Says that a run has left its place here, which another one may have waited for. */
  freed(): void
}

const atOnce = 32
const breathMs = 25

export function createClaimLoop(deps: ClaimLoopDeps): ClaimLoop {
  let poked = Promise.withResolvers<void>()
  let seen = ""
  let isStarved = false
  /** When the next look comes at the latest, by the monotonic clock. */
  let looksBy = 0

  async function look(signal: AbortSignal): Promise<Look | undefined> {
    const { database, log, owner, leaseMs } = deps
    const limit = Math.max(0, Math.min(atOnce, deps.room()))
    const askedAt = performance.now()
    try {
      const found = await claimDue(database, { owner, leaseMs, limit, after: seen }, signal)
      seen = found.seen
      isStarved = limit < atOnce && found.isFull
      for (const claim of found.claims) deps.take(claim, askedAt)
      for (const runId of found.cancelled) deps.cancel(runId)
      return found
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, "looking for due runs failed")
      return undefined
    }
  }

  /** (2) */
  function restMs(found: Look | undefined): number {
    const jitter = 0.75 + Math.random() / 4
    if (found?.isFull === true && deps.room() > 0) return breathMs * 2 * Math.random()
    return Math.min(found?.nextDueMs ?? deps.pollMs, deps.pollMs * jitter)
  }

  return {
    async run(signal) {
      signal.addEventListener("abort", () => poked.resolve(), { once: true })
      while (!signal.aborted) {
        poked = Promise.withResolvers<void>()
        looksBy = performance.now() + deps.pollMs
        const found = await look(signal)
        const timer = new AbortController()
        const waitMs = restMs(found)
        looksBy = performance.now() + waitMs
        await Promise.race([poked.promise, pause(waitMs, timer.signal)])
        timer.abort()
      }
    },
    poke: () => poked.resolve(),
    dueIn(waitMs) {
      // The look that comes of it says how long to wait.
      if (performance.now() + waitMs < looksBy) poked.resolve()
    },
    freed() {
      if (isStarved) poked.resolve()
    },
  }
}
