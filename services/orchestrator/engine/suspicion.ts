/**
 * What is held against a run whose last owner vanished: that it may be the reason.
 *
 * States: open → accused (this owner does something about the run) → cleared (the run has moved on, or
 * is this owner's no more).
 *
 * 1. The database counts before anything is done about the run, so that the count stands whatever
 *    becomes of this process; also while its call is in the hands of others, however long that takes:
 *    their answer may be what kills.
 * 2. Only what stands at one place counts together: progress forgives.
 * 3. Whoever waits until this run is out of the way waits no longer than `aloneMs` from when it was
 *    accused.
 */
import type { Database, Tx } from "../../../mesh/database.ts"
import { accuse, type ClaimKey, forgive } from "./claim-store.ts"

export interface SuspicionDeps {
  readonly database: Database
  readonly aloneMs: number
  /** Told once, when others need not wait for this run any more. */
  onOutOfTheWay(): void
}

export class Suspicion {
  readonly #deps: SuspicionDeps
  readonly #claim: ClaimKey
  #state: "open" | "accused" | "cleared" = "open"
  #timer: NodeJS.Timeout | undefined

  constructor(deps: SuspicionDeps, claim: ClaimKey) {
    this.#deps = deps
    this.#claim = claim
  }

  get isAccused(): boolean {
    return this.#state === "accused"
  }

  /** Counts, and answers how many owners have vanished over the run where it stands. */
  async accuse(tx: Tx, place: string): Promise<number> {
    const crashes = await accuse(tx, this.#claim, place)
    if (this.#state !== "open") return crashes
    this.#state = "accused"
    this.#timer = setTimeout(() => this.#deps.onOutOfTheWay(), this.#deps.aloneMs)
    return crashes
  }

  /** The run has moved on under this owner. */
  movedOn(): void {
    if (this.#state !== "accused") return
    this.clear()
    // Where that cannot be noted, the count is too high until the next crash, at another place.
    this.#deps.database
      .control([], (tx) => forgive(tx, this.#claim), { name: "forgive" })
      .catch(() => {})
  }

  /** This owner has no more to do with the run. */
  clear(): void {
    if (this.#state === "cleared") return
    this.#state = "cleared"
    clearTimeout(this.#timer)
    this.#deps.onOutOfTheWay()
  }
}
