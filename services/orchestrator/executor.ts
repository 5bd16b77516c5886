/**
 * Carries runs out on this replica.
 *
 * Owns: the runs that this replica holds a lease on, one driver each; the loop that looks for due
 * runs and the one that renews leases.
 * States: idle → running (start) → draining (disposal: no new runs, drivers stop between two steps)
 * → stopped (what still executes is handed over by giving its lease back).
 *
 * Invariants:
 * 1. One driver per run in this process, and one live lease per run in the database.
 * 2. A run belongs to whoever the database says, by its own clock; this process's clock decides only
 *    when to stop early.
 * 3. Looking for work never waits for the work that was found.
 */
import type { Logger } from "pino"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import type { Change } from "./change.ts"
import {
  type Claim,
  claimDue,
  countCrashes,
  dropClaim,
  outliveLease,
  releaseClaim,
  renewLeases,
} from "./claim-store.ts"
import { Lease, LeaseLost } from "./lease.ts"
import { pause, retryDelay } from "./pause.ts"
import { type DriverDeps, type Ending, type Origin, RunDriver } from "./run-driver.ts"
import type { RunRecord, Snapshot } from "./snapshot.ts"
import { takeSnapshot } from "./snapshot-store.ts"

export interface ExecutorDeps extends Omit<DriverDeps, "isDraining"> {
  readonly log: Logger
}

/** The place of a run that is about to be stored; disposed of once the run has begun, or will not. */
export interface Reservation extends Disposable {
  readonly owner: string
  readonly leaseMs: number
  /** When it was made, by the monotonic clock: the lease counts from here. */
  readonly askedAt: number
}

/** What a driver begins with. */
interface Loaded {
  readonly snapshot: Snapshot
  readonly origin: Origin
}

/** A run that this replica carries out. */
interface Active {
  readonly lease: Lease
  /** The run where it has ended or waits now; undefined where it was given back or is another's. */
  readonly ended: Promise<RunRecord | undefined>
}

export class Executor implements AsyncDisposable {
  readonly #deps: ExecutorDeps
  readonly #owner = newId()
  readonly #driverDeps: DriverDeps
  readonly #active = new Map<string, Active>()
  readonly #stop = new AbortController()
  /** Aborts when nothing runs any more: leases are renewed until then. */
  readonly #ended = new AbortController()
  #loops: readonly Promise<void>[] = []
  #wake = Promise.withResolvers<void>()
  /** Runs that are being stored as leased to this replica. */
  readonly #reserved = new Set<Reservation>()

  constructor(deps: ExecutorDeps) {
    this.#deps = deps
    this.#driverDeps = { ...deps, isDraining: () => this.#stop.signal.aborted }
  }

  start(): void {
    this.#loops = [this.#look(), this.#renew()]
  }

  /** How a new run may be stored as leased to this replica; undefined where it must be queued. */
  reserve(): Reservation | undefined {
    const { leaseMs } = this.#deps.config
    if (this.#stop.signal.aborted || this.#room() <= 0) return undefined
    const reservation: Reservation = {
      owner: this.#owner,
      leaseMs,
      askedAt: performance.now(),
      [Symbol.dispose]: () => this.#reserved.delete(reservation),
    }
    this.#reserved.add(reservation)
    return reservation
  }

  /** Goes on with a run that was just stored, by this change, as leased to this replica. */
  begin(snapshot: Snapshot, { askedAt }: Reservation, by: Change): Active["ended"] {
    const { workspaceId, runId, epoch } = snapshot.run
    // Held by a later epoch already: storing it took longer than its lease.
    const active = this.#active.get(runId)
    if (active !== undefined) return active.ended
    const claim = { workspaceId, runId, epoch, crashes: 0 }
    return this.#drive(claim, askedAt, () => ({ snapshot, origin: { kind: "started", by } }))
  }

  /** Resolves when this replica has no more to do for the run; undefined where it does nothing now. */
  endOf(runId: string): Active["ended"] | undefined {
    return this.#active.get(runId)?.ended
  }

  /** Says that a run may have become due. */
  poke(): void {
    this.#wake.resolve()
  }

  /** Tells the executing call of a run to stop, if this replica has the run. */
  cancel(runId: string): void {
    this.#active.get(runId)?.lease.cancel()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    this.poke()
    const ended = [...this.#active.values()].map((each) => each.ended)
    const drained = new AbortController()
    await Promise.race([Promise.all(ended), pause(this.#deps.config.drainMs, drained.signal)])
    drained.abort()
    for (const { lease } of this.#active.values()) lease.lose()
    await Promise.all(ended)
    this.#ended.abort()
    await Promise.all(this.#loops)
  }

  async #look(): Promise<void> {
    const { config, log, database } = this.#deps
    const { signal } = this.#stop
    while (!signal.aborted) {
      this.#wake = Promise.withResolvers<void>()
      const limit = this.#room()
      const askedAt = performance.now()
      const options = { owner: this.#owner, leaseMs: config.leaseMs, limit }
      try {
        const { claims, cancelled } = await claimDue(database, options, signal)
        for (const claim of claims) this.#takeOver(claim, askedAt)
        for (const runId of cancelled) this.cancel(runId)
        if (limit > 0 && claims.length === limit) continue
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error }, "looking for due runs failed")
      }
      const timer = new AbortController()
      const waitMs = config.pollMs * (0.25 + Math.random() * 0.75)
      await Promise.race([
        this.#wake.promise,
        pause(waitMs, AbortSignal.any([signal, timer.signal])),
      ])
      timer.abort()
    }
  }

  async #renew(): Promise<void> {
    const { config, log, database, reached } = this.#deps
    const { signal } = this.#ended
    let hasFailed = false
    while (!signal.aborted) {
      // Sooner after a failure: the lease must survive more than one.
      await pause(config.leaseMs / (hasFailed ? 12 : 3), signal)
      hasFailed = false
      const held = [...this.#active.values()].map(({ lease }) => lease)
      if (held.length === 0) continue
      const askedAt = performance.now()
      try {
        const mine = await renewLeases(database, this.#owner, config.leaseMs, held)
        reached("during_heartbeat")
        for (const lease of held) {
          if (mine.has(lease.runId)) {
            lease.renew(askedAt)
          } else if (this.#active.get(lease.runId)?.lease === lease) {
            lease.lose()
          }
        }
      } catch (error) {
        // Each lease counts itself as lost when this goes on for too long.
        hasFailed = true
        log.warn({ err: error }, "renewing leases failed")
      }
    }
  }

  /** How many more runs this replica has a place for. */
  #room(): number {
    return this.#deps.config.maxRuns - this.#active.size - this.#reserved.size
  }

  #takeOver(claim: Claim, askedAt: number): void {
    const { database, reached } = this.#deps
    const { workspaceId, runId, epoch } = claim
    reached("in_recovery")
    // Held here already: the lease ended unnoticed, and the database gave the run a new epoch.
    this.#active.get(runId)?.lease.lose()
    const load = async (): Promise<Loaded | undefined> => {
      const loaded = await database.tenant(
        workspaceId,
        async (tx) => {
          const snapshot = await takeSnapshot(tx, workspaceId, runId, epoch)
          if (snapshot === undefined) {
            await dropClaim(tx, claim)
            return undefined
          }
          return { snapshot, crashes: await countCrashes(tx, claim, placeOf(snapshot)) }
        },
        { name: "takeOver" },
      )
      if (loaded === undefined) return undefined
      reached("twice_in_a_row")
      const { snapshot, crashes } = loaded
      return { snapshot, origin: { kind: "continued", crashes } }
    }
    this.#drive(claim, askedAt, load)
  }

  #drive(
    claim: Claim,
    askedAt: number,
    load: () => Promise<Loaded | undefined> | Loaded,
  ): Active["ended"] {
    const { config, log } = this.#deps
    const { runId } = claim
    const lease = new Lease(claim, config.leaseMs, askedAt)
    const previous = this.#active.get(runId)?.ended
    const work = async () => {
      if (previous !== undefined) await previous
      try {
        const loaded = await load()
        if (loaded === undefined) return undefined
        const driver = new RunDriver(this.#driverDeps, lease, loaded.snapshot, loaded.origin)
        const ending = await driver.drive()
        if (ending.kind === "done") return driver.run
        await this.#leave(claim, ending)
      } catch (error) {
        await this.#abandon(claim, lease, error)
      } finally {
        lease.end()
        if (this.#active.get(runId)?.lease === lease) this.#active.delete(runId)
      }
      return undefined
    }
    const ended = work().catch((error: unknown) => {
      log.error({ err: error, runId }, "a run's driver failed")
      return undefined
    })
    this.#active.set(runId, { lease, ended })
    return ended
  }

  async #leave(claim: Claim, ending: Ending): Promise<void> {
    if (ending.kind === "give_back") await this.#release(claim, ending.afterMs, false)
    if (ending.kind === "overtaken") await this.#outlive(claim)
  }

  /** A lease that was lost is no crash: a slow database or machine must not end healthy runs. */
  async #outlive(claim: Claim): Promise<void> {
    const { database, log } = this.#deps
    const { workspaceId, runId } = claim
    try {
      await database.worker([workspaceId], (tx) => outliveLease(tx, claim), {
        name: "outliveLease",
      })
    } catch (error) {
      log.warn({ err: error, runId }, "a lost lease counts as a crash")
    }
  }

  /**
   * After a failure the run is given back, for this or another replica to try again. A database that
   * cannot be reached is nobody's fault; any other failure counts against the run, so that one which
   * nobody can carry out is given up in the end.
   */
  async #abandon(claim: Claim, lease: Lease, error: unknown): Promise<void> {
    const { log, config } = this.#deps
    const isStopping = this.#stop.signal.aborted
    if (!isStopping && (error instanceof LeaseLost || lease.lost.isEnded)) {
      return this.#outlive(claim)
    }
    const isFailure = !isStopping && reasonOf(error) !== "DEPENDENCY_UNAVAILABLE"
    if (isFailure) log.error({ err: error, runId: claim.runId }, "carrying a run out failed")
    const afterMs = isStopping ? 0 : retryDelay(config.pollMs, claim.crashes + 1)
    await this.#release(claim, afterMs, isFailure).catch((err: unknown) => {
      log.warn({ err, runId: claim.runId }, "a run could not be given back: its lease will end")
    })
  }

  /** Over the control connections, which those that carry content cannot use up. */
  #release(claim: Claim, afterMs: number, isFailure: boolean): Promise<void> {
    return this.#deps.database.worker(
      [claim.workspaceId],
      (tx) => releaseClaim(tx, claim, { due: { afterMs }, isFailure }),
      { name: "releaseClaim" },
    )
  }
}

/** Where a run stands, as far as an owner that vanished there matters. */
function placeOf({ run, calls }: Snapshot): string {
  return `${run.stepIndex} ${calls[run.stepIndex]?.state}`
}
