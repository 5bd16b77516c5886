/**
 * One run as this replica last knew it, and the only way its driver reads and writes it.
 *
 * Owns: the snapshot, which follows every stored change.
 *
 * 1. Nothing is stored once the lease is lost, nor on an epoch or revision that is not the stored one.
 * 2. A run that is read anew is fenced against earlier owners in the same transaction.
 *
 * What moves a run that has not ended, by its state and its current call's. Every one of them has a
 * row in the claim table, written and dropped with the run itself, so that some replica looks at it
 * when that row is due; beyond all of this stands the run's own deadline.
 *
 *   run              call               moved by                              due
 *   queued           proposed           any replica with a place              at once
 *   queued, later    proposed           any replica with a place              its start time
 *   queued, in line  proposed           the end of the run before it          run expires
 *   running          proposed           its owner                             when its lease ends
 *   running          executing          its owner; the next one asks the      when its lease ends
 *                                       ledger by the same key
 *   requires_action  awaiting_approval  Decide, or expiry                     approval or run expires
 *   requires_action  ready              a claim, which Decide made due        at once
 *   requires_action  outcome_unknown    SettleToolCall, or a claim, which     when to ask again, or
 *                                       asks the provider again; or expiry    run expires
 *   requires_action  succeeded, failed  a claim, which the settling made due  at once
 *   cancelling       executing          its owner, told by poll or notice,    when its lease ends
 *                                       settles the call
 *
 * `moderating` and `ready` under `running` are never stored: a change passes through them. Any other
 * pair is a fault: three owners fail over it, and the run is given up.
 */
import type { Database } from "../../../mesh/database.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { Change } from "../change/change.ts"
import type { ChangeStore, Stored } from "../change/change-store.ts"
import type { Snapshot } from "../run/snapshot.ts"
import { takeSnapshot } from "../run/snapshot-store.ts"
import { joinLine } from "../thread/thread-store.ts"
import { dropClaim, releaseClaim } from "./claim-store.ts"
import type { Lease } from "./lease.ts"

export interface HeldRunDeps {
  readonly database: Database
  readonly changes: ChangeStore
  /** Told after every stored change, and when it was stored. */
  stored(change: Change, at: Date): void
  readonly reached: Runtime["reached"]
  /** Told when a run was given back that becomes due by then. */
  dueIn(waitMs: number): void
}

/** How long a run waits that its thread has no room for. */
const fullLineMs = 1_000

export class HeldRun {
  readonly #deps: HeldRunDeps
  readonly #lease: Lease
  #snapshot: Snapshot

  constructor(deps: HeldRunDeps, lease: Lease, snapshot: Snapshot) {
    this.#deps = deps
    this.#lease = lease
    this.#snapshot = snapshot
  }

  get snapshot(): Snapshot {
    return this.#snapshot
  }

  /** Stores a change, or says why it is not stored. */
  async store(change: Change): Promise<Stored["kind"]> {
    this.#lease.check()
    const { changes, stored, reached } = this.#deps
    if (change.calls.some(({ state }) => state === "executing")) reached("before_intent")
    const outcome = await changes.store(change)
    if (outcome.kind !== "stored") return outcome.kind
    this.#snapshot = change.after(outcome.at)
    stored(change, outcome.at)
    if (change.approvals.some(({ state }) => state === "pending")) reached("during_approval_wait")
    return outcome.kind
  }

  /** Reads the run anew; false where it has ended or is another owner's by now. */
  async reload(): Promise<boolean> {
    const { workspaceId, runId, epoch } = this.#lease
    const taken = await this.#deps.database.tenant(
      workspaceId,
      async (tx) => {
        const snapshot = await takeSnapshot(tx, workspaceId, runId, epoch)
        if (snapshot === undefined) await dropClaim(tx, this.#lease)
        return snapshot
      },
      { name: "reloadRun" },
    )
    if (taken !== undefined) this.#snapshot = taken
    return taken !== undefined
  }

  /**
   * Whether the turn of a queued run has come in the line of its thread, which it joins unless it is
   * there; else it is given back, and will be due when it has. Undefined where it ended or was taken.
   */
  takeTurn(): Promise<boolean | undefined> {
    const { workspaceId, runId, epoch } = this.#lease
    return this.#deps.database.tenant(
      workspaceId,
      async (tx) => {
        // Under its lock, so that a run which ends at this moment does not stay in line.
        const current = await takeSnapshot(tx, workspaceId, runId, epoch)
        if (current === undefined) return undefined
        const { isFirst, isInLine } = await joinLine(tx, current.run)
        const due = isInLine ? { at: current.run.deadline } : { afterMs: fullLineMs }
        if (!isFirst) await releaseClaim(tx, this.#lease, { due, failure: "none" })
        return isFirst
      },
      { name: "takeTurn" },
    )
  }

  /** Gives the run back until then; false where it changed since it was read. */
  async restUntil(at: Date): Promise<boolean> {
    const { workspaceId, runId, epoch } = this.#lease
    // Under the lock of the run, so that an answer that comes at this moment is not slept through.
    const rests = await this.#deps.database.tenant(
      workspaceId,
      async (tx) => {
        const current = await takeSnapshot(tx, workspaceId, runId, epoch)
        if (current?.run.revision !== this.#snapshot.run.revision) return false
        await releaseClaim(tx, this.#lease, { due: { at }, failure: "none" })
        return true
      },
      { name: "restRun" },
    )
    if (rests) this.#deps.dueIn(at.getTime() - this.#snapshot.clock.now())
    return rests
  }
}
