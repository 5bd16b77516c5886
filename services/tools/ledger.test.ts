/**
 * The ledger's decisions: the transition table, and a model of callers, crashes and a provider that
 * lives by these decisions for thousands of histories and must never break an invariant.
 */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { reasonOf } from "../../mesh/errors.ts"
import {
  type Admission,
  type Answer,
  admit,
  afterAnswer,
  type Effect,
  floorOf,
  type Hold,
  type LedgerEntry,
  type LedgerEvent,
  type LedgerState,
  type Outcome,
  type Report,
  seal,
  settledBy,
  transition,
} from "./ledger.ts"

const effects: readonly Effect[] = ["read", "keyed", "unsafe"]
const states: readonly LedgerState[] = ["in_flight", "succeeded", "failed", "outcome_unknown"]
const events: readonly LedgerEvent[] = [
  "resent",
  "released",
  "succeeded",
  "failed",
  "outcome_unknown",
]

describe("transition", () => {
  const allowed = new Map([
    ["in_flight resent", "in_flight"],
    ["in_flight released", "in_flight"],
    ["in_flight succeeded", "succeeded"],
    ["in_flight failed", "failed"],
    ["in_flight outcome_unknown", "outcome_unknown"],
    ["outcome_unknown succeeded", "succeeded"],
    ["outcome_unknown failed", "failed"],
  ])

  it.each(effects)("knows every pair of state and event of a %s call", (effect) => {
    for (const state of states) {
      for (const event of events) {
        const isOutOfClass = event === "outcome_unknown" && effect !== "unsafe"
        const next = isOutOfClass ? undefined : allowed.get(`${state} ${event}`)
        expect(attempt(() => transition(effect, state, event))).toBe(next ?? "ILLEGAL_TRANSITION")
      }
    }
  })
})

const entry: LedgerEntry = {
  requestDigest: "a",
  effect: "keyed",
  state: "in_flight",
  hold: "held",
  maybeApplied: false,
}

describe("admit", () => {
  const request = { requestDigest: "a", epoch: 2n }
  const repeat = (maybeApplied: boolean): Admission => ({ kind: "repeat", maybeApplied })
  const cases: readonly [string, Parameters<typeof admit>, Admission["kind"] | Admission][] = [
    ["a new key", [undefined, request, 2n], "send"],
    ["a lower epoch, even with a new key", [undefined, request, 3n], "lease_lost"],
    [
      "a lower epoch with an outcome",
      [{ ...entry, state: "succeeded" }, request, 3n],
      "lease_lost",
    ],
    ["another request", [{ ...entry, requestDigest: "b" }, request, 2n], "conflict"],
    ["a live call", [entry, request, 2n], "in_progress"],
    ["a live unsafe call", [{ ...entry, effect: "unsafe" }, request, 2n], "in_progress"],
    ["a dead keyed call", [{ ...entry, hold: "expired" }, request, 2n], repeat(true)],
    ["a dead read", [{ ...entry, effect: "read", hold: "expired" }, request, 2n], repeat(true)],
    [
      "a dead unsafe call",
      [{ ...entry, effect: "unsafe", hold: "expired" }, request, 2n],
      "abandon",
    ],
    ["an open call", [{ ...entry, hold: "open" }, request, 2n], repeat(false)],
    [
      "an open call that may have been sent before",
      [{ ...entry, hold: "open", maybeApplied: true }, request, 2n],
      repeat(true),
    ],
    [
      "an open unsafe call, which never left",
      [{ ...entry, effect: "unsafe", hold: "open" }, request, 2n],
      repeat(false),
    ],
    [
      "an open unsafe call of earlier times",
      [{ ...entry, effect: "unsafe", hold: "open", maybeApplied: true }, request, 2n],
      "abandon",
    ],
    ["a success", [{ ...entry, state: "succeeded" }, request, 2n], "replay"],
    ["a failure", [{ ...entry, state: "failed" }, request, 2n], "replay"],
    ["an unknown outcome", [{ ...entry, state: "outcome_unknown" }, request, 2n], "probe"],
  ]
  it.each(cases)("answers %s", (_, args, expected) => {
    expect(admit(...args)).toEqual(typeof expected === "string" ? { kind: expected } : expected)
  })

  it("takes the first owner's epoch for seen before anything is stored", () => {
    expect([floorOf(undefined), floorOf(7n)]).toEqual([1n, 7n])
    expect(admit(undefined, { ...request, epoch: 0n }, floorOf(undefined)).kind).toBe("lease_lost")
  })
})

describe("seal", () => {
  const cases: readonly [string, Parameters<typeof seal>, string][] = [
    ["a key that nobody knows", [undefined, { epoch: 2n }, 2n], "close false"],
    ["a lower epoch", [undefined, { epoch: 1n }, 2n], "lease_lost"],
    ["a call that is being sent", [entry, { epoch: 2n }, 2n], "leave"],
    ["an open call", [{ ...entry, hold: "open" }, { epoch: 2n }, 2n], "close false"],
    ["a dead keyed call", [{ ...entry, hold: "expired" }, { epoch: 2n }, 2n], "close unknown"],
    [
      "an open call that may have been sent",
      [{ ...entry, hold: "open", maybeApplied: true }, { epoch: 2n }, 2n],
      "close unknown",
    ],
    [
      "a dead read",
      [{ ...entry, effect: "read", hold: "expired" }, { epoch: 2n }, 2n],
      "close false",
    ],
    [
      "an unsafe call that never left",
      [{ ...entry, effect: "unsafe", hold: "open" }, { epoch: 2n }, 2n],
      "close false",
    ],
    [
      "a dead unsafe call",
      [{ ...entry, effect: "unsafe", hold: "expired" }, { epoch: 2n }, 2n],
      "abandon",
    ],
    ["an unknown outcome", [{ ...entry, state: "outcome_unknown" }, { epoch: 2n }, 2n], "probe"],
    ["a success", [{ ...entry, state: "succeeded" }, { epoch: 2n }, 2n], "leave"],
    ["a failure", [{ ...entry, state: "failed" }, { epoch: 2n }, 2n], "leave"],
  ]
  it.each(cases)("treats %s", (_, args, expected) => {
    const sealing = seal(...args)
    const applied =
      sealing.kind === "close" && sealing.outcome.kind === "failed"
        ? ` ${sealing.outcome.error.metadata.applied}`
        : ""
    expect(`${sealing.kind}${applied}`).toBe(expected)
  })
})

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

function attempt(work: () => string): string {
  try {
    return work()
  } catch (error) {
    return reasonOf(error) ?? "thrown"
  }
}
