/**
 * The decisions of the ledger, case by case; answer.test.ts lives by them for thousands of histories.
 */
import { describe, expect, it } from "vitest"
import { reasonOf } from "../../../mesh/errors.ts"
import {
  type Admission,
  admit,
  type Effect,
  floorOf,
  type LedgerEntry,
  type LedgerEvent,
  type LedgerState,
  seal,
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

function attempt(work: () => string): string {
  try {
    return work()
  } catch (error) {
    return reasonOf(error) ?? "thrown"
  }
}
