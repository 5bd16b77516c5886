/**
 * How long runs stand still when their owner dies: the claims are read again and again, and a run
 * that another owner took over from one that was never heard of again is a recovery.
 *
 * Owns: its own connection, which is made anew when the database was away.
 */
import type { Connection } from "../../mesh/database.ts"
import type { Cluster } from "./cluster.ts"
import { open } from "./dump.ts"
import { sleep } from "./faults.ts"

interface Seen {
  readonly owner: string | null
  readonly epoch: number
  readonly dueTime: number
}

interface Takeover {
  readonly at: number
  readonly from: string
}

const pollMs = 100

export class RecoveryMeter implements AsyncDisposable {
  readonly #takeovers: Takeover[] = []
  readonly #lastHeard = new Map<string, number>()
  readonly #stop = new AbortController()
  readonly #loop: Promise<void>

  constructor(cluster: Cluster) {
    this.#loop = this.#watch(cluster)
  }

  /** From the death of an orchestrator to the takeover of each run that it had, in milliseconds. */
  recoveries(deaths: readonly number[]): readonly number[] {
    return this.#takeovers.flatMap(({ at, from }) => {
      const heard = this.#lastHeard.get(from) ?? 0
      const death = deaths.find((time) => time >= heard - 2 * pollMs && time <= at)
      return death === undefined ? [] : [at - death]
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    await this.#loop
  }

  async #watch(cluster: Cluster): Promise<void> {
    let connection: Connection | undefined
    let before: ReadonlyMap<string, Seen> = new Map()
    while (!this.#stop.signal.aborted) {
      try {
        connection ??= await open(cluster, "orchestrator")
        const rows = await connection.query<Seen & { readonly runId: string }>(
          `select run_id as "runId", owner, epoch,
             (extract(epoch from due_time) * 1000)::double precision as "dueTime"
           from run_claims`,
        )
        const now = new Map(rows.map((row) => [row.runId, row]))
        this.#compare(before, now)
        before = now
      } catch {
        await Promise.resolve(connection?.[Symbol.asyncDispose]()).catch(() => {})
        connection = undefined
      }
      await sleep(pollMs)
    }
    await Promise.resolve(connection?.[Symbol.asyncDispose]()).catch(() => {})
  }

  #compare(before: ReadonlyMap<string, Seen>, now: ReadonlyMap<string, Seen>): void {
    const at = Date.now()
    for (const [runId, { owner, epoch, dueTime }] of now) {
      const old = before.get(runId)
      const isRenewed = owner !== null && old?.owner === owner && old.dueTime !== dueTime
      if (owner !== null && (isRenewed || old?.epoch !== epoch)) this.#lastHeard.set(owner, at)
      if (old !== undefined && old.owner !== null && owner !== old.owner && epoch > old.epoch) {
        this.#takeovers.push({ at, from: old.owner })
      }
    }
  }
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}
