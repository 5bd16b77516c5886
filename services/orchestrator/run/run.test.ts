import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { RunwardenError } from "../../../mesh/errors.ts"
import {
  isTerminalRun,
  nextRunStates,
  type RunEvent,
  type RunState,
  runStates,
  transitionRun,
} from "./run.ts"

const events: Readonly<Record<string, RunEvent>> = {
  claim: { kind: "claim" },
  wait: { kind: "wait", reason: "approval_required" },
  resume: { kind: "resume" },
  succeed: { kind: "succeed" },
  fail: { kind: "fail", reason: "policy_denied" },
  expire: { kind: "expire", reason: "deadline_exceeded" },
  cancel: { kind: "cancel", isExecuting: false },
  cancelExecuting: { kind: "cancel", isExecuting: true },
  callEnded: { kind: "call_ended" },
}

/** The diagram of the contract: every legal (state, event) with the state after it. */
const diagram: Readonly<Record<RunState, Readonly<Record<string, RunState>>>> = {
  queued: {
    claim: "running",
    expire: "expired",
    cancel: "cancelled",
    cancelExecuting: "cancelling",
  },
  running: {
    wait: "requires_action",
    succeed: "succeeded",
    fail: "failed",
    expire: "expired",
    cancel: "cancelled",
    cancelExecuting: "cancelling",
  },
  requires_action: {
    resume: "running",
    fail: "failed",
    expire: "expired",
    cancel: "cancelled",
    cancelExecuting: "cancelling",
  },
  cancelling: { callEnded: "cancelled" },
  succeeded: {},
  failed: {},
  cancelled: {},
  expired: {},
}

describe("transitionRun", () => {
  for (const state of runStates) {
    for (const [name, event] of Object.entries(events)) {
      const expected = diagram[state][name]
      it(`${state} + ${name} → ${expected ?? "illegal"}`, () => {
        if (expected !== undefined) {
          expect(transitionRun(state, event).state).toBe(expected)
          return
        }
        const error = thrownBy(() => transitionRun(state, event))
        expect(error.reason).toBe("ILLEGAL_TRANSITION")
        expect(error.metadata.current).toBe(state)
        expect(error.metadata.allowed).toBe(
          [...new Set(Object.values(diagram[state]))]
            .sort((a, b) => nextRunStates(state).indexOf(a) - nextRunStates(state).indexOf(b))
            .join(", "),
        )
      })
    }
  }

  it("carries the reason and what must happen with it", () => {
    expect(transitionRun("running", { kind: "wait", reason: "approval_required" })).toEqual({
      state: "requires_action",
      reason: "approval_required",
      effects: ["release_lease"],
    })
    expect(transitionRun("running", { kind: "cancel", isExecuting: true }).effects).toEqual([
      "close_open",
      "abort_call",
    ])
  })

  it("walks: a terminal state ends every walk, and only it drops the claim", () => {
    const anyEvent = fc.constantFrom(...Object.values(events))
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 40 }), (walk) => {
        let state: RunState = "queued"
        for (const event of walk) {
          const before: RunState = state
          try {
            const next = transitionRun(before, event)
            expect(isTerminalRun(before)).toBe(false)
            expect(next.effects.includes("drop_claim")).toBe(isTerminalRun(next.state))
            expect(nextRunStates(before)).toContain(next.state)
            if (next.state === "succeeded") expect(before).toBe("running")
            state = next.state
          } catch (error) {
            expect(error).toBeInstanceOf(RunwardenError)
            expect(state).toBe(before)
          }
        }
      }),
      { seed: 20, numRuns: 500 },
    )
  })
})

function thrownBy(work: () => unknown): RunwardenError {
  try {
    work()
  } catch (error) {
    if (error instanceof RunwardenError) return error
  }
  throw new Error("nothing was refused")
}
