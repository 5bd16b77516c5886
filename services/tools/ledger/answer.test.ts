/**
 * A model of callers, crashes and a provider that lives by the ledger's decisions for thousands of
 * histories and must never break an invariant.
 */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type Answer, afterAnswer, type Report, settledBy } from "./answer.ts"
import {
  admit,
  type Effect,
  type Hold,
  type LedgerEntry,
  type LedgerState,
  type Outcome,
  seal,
  transition,
} from "./ledger.ts"

const effects: readonly Effect[] = ["read", "keyed", "unsafe"]

/** What happens to one sending: where it ends, and what the sender hears of it. */
interface Sending {
  readonly applies: boolean
  readonly answer: Answer["kind"]
  /** The sender dies before it records anything. */
  readonly crashes: boolean
  readonly isRetryable: boolean
  readonly isCancelled: boolean
  readonly canTell: boolean
  /** Instead of being sent, the key is sealed. */
  readonly seals: boolean
}

const sending: fc.Arbitrary<Sending> = fc.record({
  applies: fc.boolean(),
  answer: fc.constantFrom<Answer["kind"]>(
    ...(["result", "tool_error", "unusable", "oversized", "refused", "unsent", "lost"] as const),
  ),
  crashes: fc.boolean(),
  isRetryable: fc.boolean(),
  isCancelled: fc.boolean(),
  canTell: fc.boolean(),
  seals: fc.integer({ min: 0, max: 5 }).map((n) => n === 0),
})

describe("any history of requests, crashes, seals and lost answers", () => {
  it.each(effects)("keeps the invariants for a %s call", (effect) => {
    fc.assert(
      fc.property(fc.array(sending, { minLength: 1, maxLength: 12 }), (script) => {
        const world = new World(effect)
        for (const step of script) world.request(step)
        if (effect === "unsafe") {
          expect(world.sent).toBeLessThanOrEqual(1) // (2)
          expect(world.effects).toBeLessThanOrEqual(1)
        }
        if (effect === "keyed") expect(world.effects).toBeLessThanOrEqual(1)
        if (world.state === "succeeded") expect(world.effects).toBeGreaterThanOrEqual(1)
        if (world.saysNotApplied && effect !== "read") expect(world.effects).toBe(0) // (8)
        if (effect !== "unsafe") expect(world.state).not.toBe("outcome_unknown") // (4)
      }),
      { seed: 20_261, numRuns: 5_000 },
    )
  })
})

/** One key, one provider that honours keys of keyed tools, and senders that may die. */
class World {
  readonly effect: Effect
  state: LedgerState | undefined
  hold: Hold = "open"
  maybeApplied = false
  sent = 0
  effects = 0
  saysNotApplied = false

  constructor(effect: Effect) {
    this.effect = effect
  }

  request(step: Sending): void {
    if (step.seals) this.#seal(step)
    else this.#execute(step)
  }

  #execute(step: Sending): void {
    const { kind } = admit(this.#entry(), { requestDigest: "a", epoch: 1n }, 1n)
    if (kind === "abandon") this.#apply({ kind: "outcome_unknown" })
    if (kind === "abandon" || kind === "probe") this.#probe(step)
    if (kind === "abandon" || kind === "probe" || kind === "replay") return
    expect(["send", "repeat"]).toContain(kind)
    if (kind === "repeat") {
      this.maybeApplied ||= this.hold === "expired"
      this.state = transition(this.effect, this.state ?? "failed", "resent")
    }
    this.state = "in_flight"
    this.#send(step)
  }

  #entry(): LedgerEntry | undefined {
    if (this.state === undefined) return undefined
    const { effect, state, hold, maybeApplied } = this
    return { requestDigest: "a", effect, state, hold, maybeApplied }
  }

  #seal(step: Sending): void {
    const sealing = seal(this.#entry(), { epoch: 1n }, 1n)
    if (sealing.kind === "close") {
      this.state ??= "in_flight"
      this.#apply(sealing.outcome)
    }
    if (sealing.kind === "abandon") this.#apply({ kind: "outcome_unknown" })
    if (sealing.kind === "abandon" || sealing.kind === "probe") this.#probe(step)
  }

  #send(step: Sending): void {
    const answer = this.#provider(step)
    this.hold = "expired"
    if (step.crashes) return
    const { maybeApplied } = this
    const next = afterAnswer(this.effect, answer, { maybeApplied, isCancelled: step.isCancelled })
    if (next.kind === "record") this.#apply(next.outcome)
    if (next.kind === "release") this.#release(next.maybeApplied)
    if (next.kind === "probe") {
      const outcome = settledBy(this.effect, this.#report(step))
      if (outcome === undefined) this.#release(true)
      else this.#apply(outcome)
    }
  }

  #release(maybeApplied: boolean): void {
    this.hold = "open"
    this.maybeApplied = maybeApplied
  }

  #provider(step: Sending): Answer {
    const failed = { reason: "", message: "" }
    if (step.answer === "unsent") return { kind: "unsent", ...failed }
    this.sent++
    const known = this.effect === "keyed" && this.effects > 0
    const isAnswered = ["result", "unusable", "oversized"].includes(step.answer)
    if (isAnswered || (step.answer === "lost" && step.applies)) {
      this.effects = this.effect === "keyed" ? 1 : this.effects + 1
    }
    const result: Answer = { kind: "result", result: {}, text: "{}" }
    switch (step.answer) {
      case "result":
        return result
      case "unusable":
        return { kind: "unusable", reason: "result_invalid", message: "" }
      case "tool_error": {
        const error = { ...failed, metadata: {} }
        return known ? result : { kind: "tool_error", error, isRetryable: step.isRetryable }
      }
      case "lost":
        return { kind: "lost", ...failed }
      default:
        return { kind: step.answer, message: "" }
    }
  }

  #report({ canTell }: Sending): Report {
    if (!canTell) return { kind: "unknown" }
    const answer: Answer = { kind: "result", result: {}, text: "{}" }
    return this.effects > 0 ? { kind: "completed", answer } : { kind: "not_executed" }
  }

  #probe(step: Sending): void {
    const outcome = settledBy(this.effect, this.#report(step))
    if (outcome !== undefined) this.#apply(outcome)
  }

  #apply(outcome: Outcome): void {
    if (outcome.kind === this.state) return
    this.state = transition(this.effect, this.state ?? "failed", outcome.kind) // (1)
    if (outcome.kind === "failed") this.saysNotApplied = outcome.error.metadata.applied === "false"
  }
}
