/**
 * What is held against a run whose last owner vanished: that it may be the reason.
 *
 * States: open → accused (this owner does something about the run) ⇄ excused (it waits for others,
 * and lives) → cleared (the run has moved on, or is this owner's no more).
 *
 * 1. The database counts before anything is done about the run, so that the count stands whatever
 *    becomes of this process; and takes it back once this process has done it and lives.
 * 2. Only what stands at one place counts together: progress forgives.
 */
import type { Database, Tx } from "../../mesh/database.ts"
import { accuse, type ClaimKey, excuse } from "./claim-store.ts"

export class Suspicion {
  readonly #database: Database
  readonly #claim: ClaimKey
  readonly #innocentAfterMs: number
  readonly #onCleared: () => void
  #state: "open" | "accused" | "excused" | "cleared" = "open"

  /**
   * A wait for others that is longer than `innocentAfterMs` shows that what was done before it did no
   * harm. `onCleared` is told when nothing is done about the run any more, also for a while.
   */
  constructor(database: Database, claim: ClaimKey, innocentAfterMs: number, onCleared: () => void) {
    this.#database = database
    this.#claim = claim
    this.#innocentAfterMs = innocentAfterMs
    this.#onCleared = onCleared
  }

  get isAccused(): boolean {
    return this.#state === "accused"
  }

  /** Counts, and answers how many owners have vanished over the run where it stands. */
  async accuse(tx: Tx, place: string): Promise<number> {
    const crashes = await accuse(tx, this.#claim, place)
    this.#state = "accused"
    return crashes
  }

  /** Waits for others, who may take long; what follows counts again. */
  async whileOthersWork<T>(place: string, work: Promise<T>): Promise<T> {
    const { promise: late, resolve } = Promise.withResolvers<"late">()
    const timer = setTimeout(() => resolve("late"), this.#innocentAfterMs)
    const settled = work.then(
      () => "settled" as const,
      () => "settled" as const,
    )
    const first = await Promise.race([late, settled])
    clearTimeout(timer)
    if (first === "late" && this.#state === "accused") {
      this.#state = "excused"
      // Where that cannot be noted, the count only stays too high.
      const noted = this.#database.control([], (tx) => excuse(tx, this.#claim), { name: "excuse" })
      await noted.catch(() => {})
      this.#onCleared()
      await settled
      await this.#database.control([], (tx) => this.accuse(tx, place), { name: "accuse" })
    }
    return work
  }

  /** The run has moved on, or is left alone. */
  clear(): void {
    if (this.#state === "cleared") return
    this.#state = "cleared"
    this.#onCleared()
  }
}
