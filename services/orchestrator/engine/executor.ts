/**
 * Carries runs out on this replica.
 *
 * Owns: the runs that this replica holds a lease on, one driver each; the looks for due runs are
 * claim-loop.ts's, and the renewal of leases is heartbeat.ts's.
 * States: idle → running (start) → draining (disposal: no new runs, drivers stop between two steps)
 * → stopped (what still executes is handed over by giving its lease back).
 *
 * Invariants:
 * 1. One driver per run in this process, and one live lease per run in the database.
 * 2. A run belongs to whoever the database says, by its own clock; this process's clock decides only
 *    when to stop early.
 * 3. A run whose owner vanished may be why it vanished. One that was such a run before is taken up
 *    alone: until it has moved on, or one attempt of its call has had its time, nothing else of its
 *    kind begins here, so that whoever vanishes then vanishes over that one.
 */
import type { Logger } from "pino"
import { reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import type { Change } from "../change/change.ts"
import { giveBackMs } from "../config.ts"
import { pause, retryDelay } from "../pause.ts"
import { placeOf, type RunRecord, type Snapshot } from "../run/snapshot.ts"
import { takeSnapshot } from "../run/snapshot-store.ts"
import { type ClaimLoop, createClaimLoop } from "./claim-loop.ts"
import {
  type Claim,
  type ClaimKey,
  dropClaim,
  outliveLease,
  type Release,
  releaseClaim,
} from "./claim-store.ts"
import { createHeartbeat, type Heartbeat } from "./heartbeat.ts"
import { Lease, LeaseLost } from "./lease.ts"
import { type DriverDeps, RunDriver } from "./run-driver.ts"
import type { Ending, Origin } from "./run-turn.ts"
import { Suspicion } from "./suspicion.ts"

export interface ExecutorDeps extends Omit<DriverDeps, "isDraining" | "dueIn"> {
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
  readonly #claims: ClaimLoop
  readonly #heartbeat: Heartbeat
  #loops: readonly Promise<void>[] = []
  /** The last run of those that are taken up one after the other. (3) */
  #alone: Promise<void> = Promise.resolve()
  /** Runs that are being stored as leased to this replica. */
  readonly #reserved = new Set<Reservation>()

  constructor(deps: ExecutorDeps) {
    this.#deps = deps
    this.#driverDeps = {
      ...deps,
      isDraining: () => this.#stop.signal.aborted,
      dueIn: (waitMs) => this.dueIn(waitMs),
    }
    this.#claims = createClaimLoop({
      ...{ database: deps.database, log: deps.log, owner: this.#owner },
      ...{ leaseMs: deps.config.leaseMs, pollMs: deps.config.pollMs },
      room: () => this.#room(),
      take: (claim, askedAt) => this.#takeOver(claim, askedAt),
      cancel: (runId) => this.cancel(runId),
    })
    this.#heartbeat = createHeartbeat({
      ...{ database: deps.database, log: deps.log, owner: this.#owner, reached: deps.reached },
      leaseMs: deps.config.leaseMs,
      held: () => [...this.#active.values()].map(({ lease }) => lease),
      isHeld: (lease) => this.#active.get(lease.runId)?.lease === lease,
    })
  }

  start(): void {
    this.#loops = [this.#claims.run(this.#stop.signal), this.#heartbeat.run(this.#ended.signal)]
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
    const claim = { workspaceId, runId, epoch }
    return this.#drive(claim, askedAt, () => ({ snapshot, origin: { kind: "started", by } }))
  }

  /** Goes on with a run that waited and was just stored as leased to this replica again. */
  resume(snapshot: Snapshot, { askedAt }: Reservation): void {
    const { workspaceId, runId, epoch } = snapshot.run
    const origin: Origin = { kind: "continued", crashes: 0, suspicion: undefined }
    void this.#drive({ workspaceId, runId, epoch }, askedAt, () => ({ snapshot, origin }))
  }

  /** Resolves when this replica has no more to do for the run; undefined where it does nothing now. */
  endOf(runId: string): Active["ended"] | undefined {
    return this.#active.get(runId)?.ended
  }

  /** Says that a run may have become due. */
  poke(): void {
    this.#claims.poke()
  }

  /** Says that a run becomes due by then. */
  dueIn(waitMs: number): void {
    this.#claims.dueIn(waitMs)
  }

  /** Tells the executing call of a run to stop, if this replica has the run. */
  cancel(runId: string): void {
    this.#active.get(runId)?.lease.cancel()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    const ended = [...this.#active.values()].map((each) => each.ended)
    const drained = new AbortController()
    await Promise.race([Promise.all(ended), pause(this.#deps.config.drainMs, drained.signal)])
    drained.abort()
    for (const { lease } of this.#active.values()) lease.lose()
    await Promise.all(ended)
    this.#ended.abort()
    await Promise.all(this.#loops)
  }

  /** How many more runs this replica has a place for. */
  #room(): number {
    return this.#deps.config.maxRuns - this.#active.size - this.#reserved.size
  }

  #takeOver(claim: Claim, askedAt: number): void {
    const { runId } = claim
    const { config, database } = this.#deps
    this.#deps.reached("in_recovery")
    // Held here already: the lease ended unnoticed, and the database gave the run a new epoch.
    this.#active.get(runId)?.lease.lose()
    const isSuspect = claim.isOrphan || claim.crashes > 0
    const turn = Promise.withResolvers<void>()
    const suspicion = isSuspect
      ? new Suspicion(
          { database, aloneMs: config.executeTimeoutMs, onOutOfTheWay: turn.resolve },
          claim,
        )
      : undefined
    const load = async (lease: Lease): Promise<Loaded | undefined> => {
      if (claim.crashes > 0) {
        const before = this.#alone
        this.#alone = before.then(() => turn.promise)
        await lease.lost.race(before)
      }
      const loaded = await this.#load(claim, suspicion)
      if (loaded !== undefined) this.#deps.reached("twice_in_a_row")
      return loaded
    }
    void this.#drive(claim, askedAt, load).then(() => suspicion?.clear())
  }

  /** Reads a run that was taken over; undefined where it needs no owner any more. */
  #load(claim: ClaimKey, suspicion: Suspicion | undefined): Promise<Loaded | undefined> {
    const { workspaceId, runId, epoch } = claim
    return this.#deps.database.tenant(
      workspaceId,
      async (tx) => {
        const snapshot = await takeSnapshot(tx, workspaceId, runId, epoch)
        if (snapshot === undefined) {
          await dropClaim(tx, claim)
          return undefined
        }
        const crashes = (await suspicion?.accuse(tx, placeOf(snapshot))) ?? 0
        return { snapshot, origin: { kind: "continued", crashes, suspicion } }
      },
      { name: "takeOver" },
    )
  }

  #drive(
    claim: ClaimKey,
    askedAt: number,
    load: (lease: Lease) => Promise<Loaded | undefined> | Loaded,
  ): Active["ended"] {
    const { config, log } = this.#deps
    const { runId } = claim
    const lease = new Lease(claim, config.leaseMs, askedAt)
    const previous = this.#active.get(runId)?.ended
    let loaded: Loaded | undefined
    const work = async () => {
      if (previous !== undefined) await previous
      try {
        loaded = await load(lease)
        if (loaded === undefined) return undefined
        const driver = new RunDriver(this.#driverDeps, lease, loaded.snapshot, loaded.origin)
        const ending = await driver.drive()
        if (ending.kind === "done") return driver.run
        await this.#leave(claim, ending, loaded.origin)
      } catch (error) {
        await this.#abandon(claim, lease, error, loaded?.origin)
      } finally {
        lease.end()
        if (this.#active.get(runId)?.lease === lease) this.#active.delete(runId)
        this.#claims.freed()
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

  async #leave(claim: ClaimKey, ending: Ending, origin: Origin): Promise<void> {
    if (ending.kind === "give_back") await this.#release(claim, ending.afterMs, "none")
    if (ending.kind === "overtaken") await this.#outlive(claim, origin)
  }

  /** A lease that was lost is no crash: a slow database or machine must not end healthy runs. */
  async #outlive(claim: ClaimKey, origin: Origin | undefined): Promise<void> {
    const { database, log } = this.#deps
    const { workspaceId, runId } = claim
    const isAccused = origin?.kind === "continued" && origin.suspicion?.isAccused === true
    try {
      await database.control([workspaceId], (tx) => outliveLease(tx, claim, isAccused), {
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
  async #abandon(
    claim: ClaimKey,
    lease: Lease,
    error: unknown,
    origin: Origin | undefined,
  ): Promise<void> {
    const { log, config } = this.#deps
    const { runId } = claim
    const isStopping = this.#stop.signal.aborted
    if (!isStopping && (error instanceof LeaseLost || lease.lost.isEnded)) {
      return this.#outlive(claim, origin)
    }
    const isFailure = !isStopping && reasonOf(error) !== "DEPENDENCY_UNAVAILABLE"
    if (isFailure) log.error({ err: error, runId }, "carrying a run out failed")
    const { crashes, suspicion } = origin?.kind === "continued" ? origin : startedOrigin
    const afterMs = isStopping ? 0 : retryDelay(giveBackMs(config), crashes + 1)
    const count = suspicion?.isAccused === true ? "counted" : "to_count"
    const failure = isFailure ? count : "none"
    await this.#release(claim, afterMs, failure).catch((err: unknown) => {
      log.warn({ err, runId }, "a run could not be given back: its lease will end")
    })
  }

  /** Over the control connections, which those that carry content cannot use up. */
  #release(claim: ClaimKey, afterMs: number, failure: Release["failure"]): Promise<void> {
    return this.#deps.database.control(
      [claim.workspaceId],
      (tx) => releaseClaim(tx, claim, { due: { afterMs }, failure }),
      { name: "releaseClaim" },
    )
  }
}

const startedOrigin = { crashes: 0, suspicion: undefined }
