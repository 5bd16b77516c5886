/**
 * The state machine of a project: pure, no clock, no ids.
 *
 * States: draft, active, on_hold, completed, archived.
 * Events: activate, hold, complete, archive. Each leads to one state, wherever it starts.
 *
 * Invariants:
 * 1. A project is born draft.
 * 2. Only the steps of `transitions` happen; every other is refused and names the current state
 *    and the states that are allowed from it.
 * 3. Archived is terminal, and reached from every other state.
 * 4. No step leads from a state to itself: who asks for one has read an old state.
 */
import { illegalTransition } from "../../mesh/errors.ts"

export const projectStates = ["draft", "active", "on_hold", "completed", "archived"] as const
export type ProjectState = (typeof projectStates)[number]

export const projectEvents = ["activate", "hold", "complete", "archive"] as const
export type ProjectEvent = (typeof projectEvents)[number]

export const initialState: ProjectState = "draft"

const targets = {
  activate: "active",
  hold: "on_hold",
  complete: "completed",
  archive: "archived",
} as const satisfies Readonly<Record<ProjectEvent, ProjectState>>

export const transitions = {
  draft: ["activate", "archive"],
  active: ["hold", "complete", "archive"],
  on_hold: ["activate", "complete", "archive"],
  completed: ["activate", "archive"],
  archived: [],
} as const satisfies Readonly<Record<ProjectState, readonly ProjectEvent[]>>

/** The state after the event, or ILLEGAL_TRANSITION (invariant 2). */
export function transition(state: ProjectState, event: ProjectEvent): ProjectState {
  if (!allowedEvents(state).includes(event)) {
    throw illegalTransition("project", state, targets[event], allowedStates(state))
  }
  return targets[event]
}

/** The states that a project may go to from this one. */
export function allowedStates(state: ProjectState): readonly ProjectState[] {
  return allowedEvents(state).map((event) => targets[event])
}

/** Refuses a change other than a step where the project is archived (its documents included). */
export function assertChangeable(state: ProjectState, change: string): void {
  if (state === "archived") throw illegalTransition("project", state, change, allowedStates(state))
}

/** The event that leads to a state; undefined for draft, to which nothing leads. */
export function eventTo(state: ProjectState): ProjectEvent | undefined {
  return projectEvents.find((event) => targets[event] === state)
}

function allowedEvents(state: ProjectState): readonly ProjectEvent[] {
  return transitions[state]
}
