/**
 * What the driver of a run does next.
 *
 * Owns: how a change is stored and what it leads to, whatever becomes of it; the run as it is known
 * then is held-run.ts's.
 *
 * 1. A change that is refused as stale was decided on something that is no longer so: the run is read
 *    anew, and everything is decided again.
 * 2. A run is cleared of suspicion as soon as it stands at another place.
 */
import type { Database } from "../../../mesh/database.ts"
import { findExhaustion } from "../budget/budget-store.ts"
import { exhaust } from "../budget/run-budget.ts"
import { Change } from "../change/change.ts"
import { placeOf, type ToolCallRecord } from "../run/snapshot.ts"
import type { HeldRun } from "./held-run.ts"
import type { Suspicion } from "./suspicion.ts"

/** Whether the run was just stored here, by this change, or taken over as somebody left it. */
export type Origin =
  | { readonly kind: "started"; readonly by: Change }
  /** `crashes` counts the owners that vanished where the run stands; suspected for the last of them. */
  | {
      readonly kind: "continued"
      readonly crashes: number
      readonly suspicion: Suspicion | undefined
    }

/** What the driver did with the run: it must be given back unless it is done or waits. */
export type Ending =
  | { readonly kind: "done" }
  | { readonly kind: "give_back"; readonly afterMs: number }
  /** The run is another owner's by now, or has ended. */
  | { readonly kind: "overtaken" }

export type Turn =
  | { readonly kind: "again" }
  /** The call is admitted, and its execution is what comes next. */
  | { readonly kind: "execute"; readonly call: ToolCallRecord }
  | Ending

export const again: Turn = { kind: "again" }
export const done: Turn = { kind: "done" }

export class RunTurns {
  readonly #database: Database
  readonly #held: HeldRun
  readonly #suspicion: Suspicion | undefined

  constructor(database: Database, held: HeldRun, suspicion: Suspicion | undefined) {
    this.#database = database
    this.#held = held
    this.#suspicion = suspicion
  }

  /** Builds a change on what is known, and stores it. */
  store(build: (change: Change) => void): Promise<Turn> {
    const change = new Change(this.#held.snapshot)
    build(change)
    return this.commit(change)
  }

  async commit(change: Change): Promise<Turn> {
    switch (await this.#held.store(change)) {
      case "stored":
        return this.follow(change)
      case "stale":
        return this.reload()
      case "exhausted":
        return this.#exhaust()
    }
  }

  /** Stores a change; undefined where it is not stored. */
  async tryCommit(change: Change): Promise<Turn | undefined> {
    return (await this.#held.store(change)) === "stored" ? this.follow(change) : undefined
  }

  /** What a stored change leads to. */
  follow({ before, claim }: Change): Turn {
    if (placeOf(before) !== placeOf(this.#held.snapshot)) this.#suspicion?.movedOn()
    // The run has ended, or waits and was given back with the change itself.
    if (claim.kind === "drop" || claim.kind === "release") return done
    const { run, calls } = this.#held.snapshot
    const call = calls[run.stepIndex]
    const isAdmitted =
      call?.state === "executing" && call.attempts > (before.calls[call.stepIndex]?.attempts ?? 0)
    return isAdmitted ? { kind: "execute", call } : again
  }

  async restUntil(at: Date): Promise<Turn> {
    return (await this.#held.restUntil(at)) ? done : this.reload()
  }

  async reload(): Promise<Turn> {
    return (await this.#held.reload()) ? again : { kind: "overtaken" }
  }

  /** Denies the current call, unless its workspace has room for it by now. */
  async #exhaust(): Promise<Turn> {
    const { run, calls } = this.#held.snapshot
    const { workspaceId } = run
    const wanted = calls[run.stepIndex]?.maxUsage
    const exhaustion = await this.#database.tenant(
      workspaceId,
      (tx) => findExhaustion(tx, workspaceId, wanted),
      { name: "findExhaustion", isOneRead: true },
    )
    if (exhaustion === undefined) return again
    return this.store((change) => exhaust(change, exhaustion))
  }
}
