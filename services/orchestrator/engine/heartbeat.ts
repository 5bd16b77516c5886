/**
 * Renews the leases of this replica, all in one statement, three times in the length of one.
 *
 * 1. It goes over connections that nothing else can use up, and waits for no run.
 * 2. A lease that the database says is another's is lost at once. While the database says nothing,
 *    each lease counts itself as lost when its time comes.
 */
import type { Logger } from "pino"
import type { Database } from "../../../mesh/database.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { pause } from "../pause.ts"
import { renewLeases } from "./claim-store.ts"
import type { Lease } from "./lease.ts"

export interface HeartbeatDeps {
  readonly database: Database
  readonly log: Logger
  readonly reached: Runtime["reached"]
  readonly owner: string
  readonly leaseMs: number
  held(): readonly Lease[]
  /** Whether it is still this one that the replica holds. */
  isHeld(lease: Lease): boolean
}

export interface Heartbeat {
  /** Renews until the signal aborts. */
  run(signal: AbortSignal): Promise<void>
}

export function createHeartbeat(deps: HeartbeatDeps): Heartbeat {
  const { database, log, reached, owner, leaseMs } = deps

  async function renew(held: readonly Lease[]): Promise<void> {
    const askedAt = performance.now()
    const mine = await renewLeases(database, owner, leaseMs, held)
    reached("during_heartbeat")
    for (const lease of held) {
      if (mine.has(lease.runId)) lease.renew(askedAt)
      else if (deps.isHeld(lease)) lease.lose()
    }
  }

  return {
    async run(signal) {
      let hasFailed = false
      while (!signal.aborted) {
        // Sooner after a failure: the lease must survive more than one.
        await pause(leaseMs / (hasFailed ? 12 : 3), signal)
        hasFailed = false
        const held = deps.held()
        if (held.length === 0) continue
        try {
          await renew(held)
        } catch (error) {
          hasFailed = true
          log.warn({ err: error }, "renewing leases failed")
        }
      }
    },
  }
}
