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
  type LedgerEvent,
  type LedgerState,
  type Outcome,
  type Report,
  settledBy,
  transition,
} from "./ledger.ts"

const effects: readonly Effect[] = ["read", "keyed", "unsafe"]
const states: readonly LedgerState[] = ["in_flight", "succeeded", "failed", "outcome_unknown"]
const events: readonly LedgerEvent[] = ["resent", "succeeded", "failed", "outcome_unknown"]

describe("transition", () => {
  const allowed = new Map([
    ["in_flight resent", "in_flight"],
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

describe("admit", () => {
  const entry = { requestDigest: "a", effect: "keyed", state: "in_flight", isLeased: true } as const
  const request = { requestDigest: "a", epoch: 2n }
  const cases: readonly [string, Parameters<typeof admit>, Admission["kind"]][] = [
    ["a new key", [undefined, request, 2n], "send"],
    ["a lower epoch, even with a new key", [undefined, request, 3n], "lease_lost"],
    [
      "a lower epoch with an outcome",
      [{ ...entry, state: "succeeded" }, request, 3n],
      "lease_lost",
    ],
    ["another request", [{ ...entry, requestDigest: "b" }, request, 2n], "conflict"],
    ["a live call", [entry, request, 2n], "in_progress"],
    ["a dead keyed call", [{ ...entry, isLeased: false }, request, 2n], "repeat"],
    ["a dead read", [{ ...entry, effect: "read", isLeased: false }, request, 2n], "repeat"],
    [
      "a dead unsafe call",
      [{ ...entry, effect: "unsafe", isLeased: false }, request, 2n],
      "abandon",
    ],
    ["a success", [{ ...entry, state: "succeeded" }, request, 2n], "replay"],
    ["a failure", [{ ...entry, state: "failed" }, request, 2n], "replay"],
    ["an unknown outcome", [{ ...entry, state: "outcome_unknown" }, request, 2n], "probe"],
  ]
  it.each(cases)("answers %s", (_, args, kind) => {
    expect(admit(...args).kind).toBe(kind)
  })
})

/** What happens to one sending: where it ends, and what the sender hears of it. */
interface Sending {
  readonly applies: boolean
  readonly answer:
    | "result"
    | "tool_error"
    | "unusable"
    | "oversized"
    | "refused"
    | "unsent"
    | "lost"
  /** The sender dies before it records anything. */
  readonly crashes: boolean
  readonly canRepeat: boolean
  readonly canTell: boolean
}

const sending: fc.Arbitrary<Sending> = fc.record({
  applies: fc.boolean(),
  answer: fc.constantFrom(
    "result" as const,
    "tool_error" as const,
    "unusable" as const,
    "oversized" as const,
    "refused" as const,
    "unsent" as const,
    "lost" as const,
  ),
  crashes: fc.boolean(),
  canRepeat: fc.boolean(),
  canTell: fc.boolean(),
})

describe("any history of requests, crashes and lost answers", () => {
  it.each(effects)("keeps the invariants for a %s call", (effect) => {
    fc.assert(
      fc.property(fc.array(sending, { minLength: 1, maxLength: 12 }), (script) => {
        const world = new World(effect)
        for (const [index, step] of script.entries()) world.request(step, script.slice(index + 1))
        if (effect === "unsafe") {
          expect(world.sent).toBeLessThanOrEqual(1) // (2)
          expect(world.effects).toBeLessThanOrEqual(1)
        }
        if (effect === "keyed") expect(world.effects).toBeLessThanOrEqual(1)
        if (world.state === "succeeded") expect(world.effects).toBeGreaterThanOrEqual(1)
        if (world.saysNotApplied && effect !== "read") expect(world.effects).toBe(0)
        if (effect !== "unsafe") expect(world.state).not.toBe("outcome_unknown") // (4)
      }),
      { seed: 20_261, numRuns: 3_000 },
    )
  })
})

/** One key, one provider that honours keys of keyed tools, and senders that may die. */
class World {
  readonly effect: Effect
  state: LedgerState | undefined
  attempts = 0
  sent = 0
  effects = 0
  saysNotApplied = false

  constructor(effect: Effect) {
    this.effect = effect
  }

  request(first: Sending, later: readonly Sending[]): void {
    const entry =
      this.state === undefined
        ? undefined
        : { requestDigest: "a", effect: this.effect, state: this.state, isLeased: false }
    const { kind } = admit(entry, { requestDigest: "a", epoch: 1n }, 1n)
    if (kind === "abandon") this.#apply({ kind: "outcome_unknown" })
    if (kind === "abandon" || kind === "probe") this.#probe(first)
    if (kind === "abandon" || kind === "probe" || kind === "replay") return
    expect(["send", "repeat"]).toContain(kind)
    if (kind === "repeat") this.state = transition(this.effect, this.state ?? "failed", "resent")
    this.state = "in_flight"
    this.#send(first, later, kind === "repeat")
  }

  #send(step: Sending, later: readonly Sending[], maybeApplied: boolean): void {
    this.attempts++
    const answer = this.#provider(step)
    if (step.crashes) return
    const [following, ...rest] = later
    const canRepeat = step.canRepeat && following !== undefined
    const next = afterAnswer(this.effect, answer, { canRepeat, maybeApplied })
    if (next.kind === "record") this.#apply(next.outcome)
    if (next.kind === "probe") this.#probe(step)
    if (next.kind === "repeat" && following !== undefined) {
      this.#send(following, rest, maybeApplied || answer.kind === "lost")
    }
  }

  #provider(step: Sending): Answer {
    const message = ""
    if (step.answer === "unsent") return { kind: "unsent", message }
    this.sent++
    const known = this.effect === "keyed" && this.effects > 0
    const isAnswered = ["result", "unusable", "oversized"].includes(step.answer)
    if (isAnswered || (step.answer === "lost" && step.applies)) {
      this.effects = this.effect === "keyed" ? 1 : this.effects + 1
    }
    switch (step.answer) {
      case "result":
        return { kind: "result", result: {} }
      case "unusable":
        return { kind: "unusable", reason: "result_invalid", message }
      case "tool_error":
        if (known) return { kind: "result", result: {} }
        return { kind: "tool_error", error: { reason: "no", message, metadata: {} } }
      default:
        return { kind: step.answer, message }
    }
  }

  #probe({ canTell }: Sending): void {
    const answer: Answer = { kind: "result", result: {} }
    const known: Report =
      this.effects > 0 ? { kind: "completed", answer } : { kind: "not_executed" }
    this.#apply(settledBy(canTell ? known : { kind: "unknown" }))
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
