import fc from "fast-check"
import { expect, test } from "vitest"
import { RunwardenError } from "../../mesh/errors.ts"
import {
  allowedStates,
  assertChangeable,
  eventTo,
  initialState,
  type ProjectState,
  projectEvents,
  projectStates,
  transition,
} from "./project.ts"

const property = { seed: 20_251, numRuns: 2_000 }

// Written out a second time on purpose: the table of the contract, not the table of the code.
const steps: Readonly<Record<ProjectState, readonly ProjectState[]>> = {
  draft: ["active", "archived"],
  active: ["on_hold", "completed", "archived"],
  on_hold: ["active", "completed", "archived"],
  completed: ["active", "archived"],
  archived: [],
}

test.each(projectStates.flatMap((from) => projectEvents.map((event) => ({ from, event }))))(
  "$from by $event is as the table says",
  ({ from, event }) => {
    const target = projectStates.find((state) => eventTo(state) === event) as ProjectState
    if (steps[from].includes(target)) {
      expect(transition(from, event)).toBe(target)
      return
    }
    const error = refusal(() => transition(from, event))
    expect(error.reason).toBe("ILLEGAL_TRANSITION")
    expect(error.metadata).toEqual({
      resource: "project",
      current: from,
      requested: target,
      allowed: steps[from].join(", "),
    })
    expect(error.message).toContain(from)
  },
)

test("no sequence of events leaves the table, and nothing follows archived", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...projectEvents), { maxLength: 40 }), (events) => {
      let state = initialState
      for (const event of events) {
        const before = state
        try {
          state = transition(before, event)
        } catch (error) {
          expect(error).toBeInstanceOf(RunwardenError)
          continue
        }
        expect(steps[before]).toContain(state)
        expect(before).not.toBe("archived")
        expect(state).not.toBe(before)
      }
    }),
    property,
  )
})

test("every state is reached, and every state but archived can be archived", () => {
  const reached = new Set<ProjectState>([initialState])
  for (const state of reached) for (const next of allowedStates(state)) reached.add(next)
  expect([...reached].sort()).toEqual([...projectStates].sort())
  for (const state of projectStates) {
    expect(allowedStates(state).includes("archived")).toBe(state !== "archived")
  }
})

test("an archived project refuses other changes by name", () => {
  for (const state of projectStates.filter((state) => state !== "archived")) {
    expect(() => assertChangeable(state, "update")).not.toThrow()
  }
  expect(refusal(() => assertChangeable("archived", "update")).metadata).toMatchObject({
    current: "archived",
    requested: "update",
    allowed: "",
  })
})

function refusal(attempt: () => unknown): RunwardenError {
  try {
    attempt()
  } catch (error) {
    if (error instanceof RunwardenError) return error
    throw error
  }
  throw new Error("it was not refused")
}
