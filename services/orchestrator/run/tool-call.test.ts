import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { reasonOf } from "../../../mesh/errors.ts"
import {
  isOpenToolCall,
  isTerminalToolCall,
  nextToolCallStates,
  type ToolCallEvent,
  type ToolCallState,
  toolCallEvents,
  toolCallStates,
  transitionToolCall,
} from "./tool-call.ts"

/** The diagram of the contract: every legal (state, event) with the state after it. */
const diagram: Readonly<
  Record<ToolCallState, Readonly<Partial<Record<ToolCallEvent, ToolCallState>>>>
> = {
  proposed: { moderate: "moderating", cancel: "cancelled" },
  moderating: {
    deny: "denied",
    ask: "awaiting_approval",
    permit: "ready",
    cancel: "cancelled",
  },
  awaiting_approval: {
    approve: "ready",
    reject: "denied",
    expire: "expired",
    supersede: "moderating",
    cancel: "cancelled",
  },
  ready: {
    execute: "executing",
    supersede: "moderating",
    revoke: "denied",
    cancel: "cancelled",
  },
  executing: { succeed: "succeeded", fail: "failed", lose: "outcome_unknown" },
  outcome_unknown: { settle_succeeded: "succeeded", settle_failed: "failed" },
  succeeded: {},
  failed: {},
  denied: {},
  expired: {},
  cancelled: {},
}

describe("transitionToolCall", () => {
  for (const state of toolCallStates) {
    for (const event of toolCallEvents) {
      const expected = diagram[state][event]
      it(`${state} + ${event} → ${expected ?? "illegal"}`, () => {
        if (expected !== undefined) {
          expect(transitionToolCall(state, event).state).toBe(expected)
          return
        }
        try {
          transitionToolCall(state, event)
          expect.unreachable("nothing was refused")
        } catch (error) {
          expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
        }
      })
    }
  }

  it("names the terminal states and those that a cancel reaches", () => {
    expect(toolCallStates.filter(isTerminalToolCall)).toEqual([
      "succeeded",
      "failed",
      "denied",
      "expired",
      "cancelled",
    ])
    expect(toolCallStates.filter(isOpenToolCall)).toEqual([
      "proposed",
      "moderating",
      "awaiting_approval",
      "ready",
    ])
  })

  it("walks: nothing executes that was not moderated before, and nothing executes twice", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...toolCallEvents), { maxLength: 60 }), (walk) => {
        let state: ToolCallState = "proposed"
        const seen: ToolCallState[] = [state]
        for (const event of walk) {
          if (!nextToolCallStates(state).length) break
          if (diagram[state][event] === undefined) continue
          state = transitionToolCall(state, event).state
          seen.push(state)
        }
        const executing = seen.indexOf("executing")
        if (executing >= 0) expect(seen.slice(0, executing)).toContain("moderating")
        expect(seen.filter((one) => one === "executing").length).toBeLessThanOrEqual(1)
        expect(seen.slice(0, -1).some(isTerminalToolCall)).toBe(false)
      }),
      { seed: 21, numRuns: 1000 },
    )
  })
})
