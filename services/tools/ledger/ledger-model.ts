/** The ledger as a map: what the tables must hold after each step, by the pure functions alone. */
import type { ClaimItem } from "./execution-group-store.ts"
import {
  admit,
  floorOf,
  type LedgerEntry,
  type Outcome,
  seal,
  statesBefore,
  transition,
} from "./ledger.ts"

/** A row of the model. */
export interface ModelRow extends LedgerEntry {
  readonly attempts: number
  readonly outcome: Outcome | undefined
}

export class LedgerModel {
  readonly #rows = new Map<string, ModelRow>()
  readonly #epochs = new Map<string, bigint>()

  row(key: string): ModelRow | undefined {
    return this.#rows.get(key)
  }

  floor({ runId }: Pick<ClaimItem, "runId">): bigint {
    return floorOf(this.#epochs.get(runId))
  }

  see(item: ClaimItem): void {
    if (item.epoch > this.floor(item)) this.#epochs.set(item.runId, item.epoch)
  }

  /** A claim whose epoch was good. */
  claim(item: ClaimItem): string {
    this.see(item)
    const { requestDigest, effect, idempotencyKey } = item
    const { kind } = admit(this.row(idempotencyKey), item, item.epoch)
    if (kind !== "send") return kind
    this.#rows.set(idempotencyKey, {
      ...{ requestDigest, effect, state: "in_flight", hold: "held", maybeApplied: false },
      ...{ attempts: 1, outcome: undefined },
    })
    return kind
  }

  /** A request that finds its key taken. */
  admit(item: ClaimItem): string {
    this.see(item)
    const row = this.row(item.idempotencyKey)
    const admission = admit(row, item, this.floor(item))
    if (row === undefined) return admission.kind
    if (admission.kind === "abandon") this.#end(item, row, { kind: "outcome_unknown" })
    if (admission.kind === "repeat") {
      this.#rows.set(item.idempotencyKey, {
        ...row,
        state: transition(row.effect, row.state, "resent"),
        hold: "held",
        maybeApplied: admission.maybeApplied,
        attempts: row.attempts + 1,
      })
    }
    return admission.kind
  }

  seal(item: ClaimItem): string {
    this.see(item)
    const row = this.row(item.idempotencyKey)
    const sealing = seal(row, item, this.floor(item))
    const { requestDigest, effect } = item
    const blank = { requestDigest, effect, state: "in_flight", hold: "open" } as const
    const open = row ?? { ...blank, maybeApplied: false, attempts: 0, outcome: undefined }
    if (sealing.kind === "close") this.#end(item, open, sealing.outcome)
    if (sealing.kind === "abandon") this.#end(item, open, { kind: "outcome_unknown" })
    return sealing.kind
  }

  /** True where the row allows it: `outcome` undefined gives the row back. */
  settle(
    item: ClaimItem,
    outcome: Outcome | undefined,
    attempt: number | null,
    maybeApplied: boolean,
  ): boolean {
    const row = this.row(item.idempotencyKey)
    if (row === undefined) throw new Error("nothing was claimed")
    const mayBe = statesBefore(outcome?.kind ?? "released").includes(row.state)
    if (!mayBe || (attempt !== null && attempt !== row.attempts)) return false
    if (outcome !== undefined) {
      this.#end(item, row, outcome)
    } else {
      const isMaybe = row.maybeApplied || maybeApplied
      this.#rows.set(item.idempotencyKey, { ...row, hold: "open", maybeApplied: isMaybe })
    }
    return true
  }

  expire(key: string): void {
    const row = this.row(key)
    if (row?.hold === "held") this.#rows.set(key, { ...row, hold: "expired" })
  }

  #end({ idempotencyKey }: ClaimItem, row: ModelRow, outcome: Outcome): void {
    const state = transition(row.effect, row.state, outcome.kind)
    this.#rows.set(idempotencyKey, { ...row, state, hold: "open", outcome })
  }
}
