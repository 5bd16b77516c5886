/**
 * A run's states and what moves it between them. No I/O, no clock, no ids.
 *
 * States: queued, running, requires_action, cancelling; terminal: succeeded, failed, cancelled,
 * expired.
 * Events: claim (a replica takes a queued run), wait, resume, succeed, fail, expire, cancel,
 * call_ended (the executing call of a cancelled run came to its end).
 *
 * Invariants:
 * 1. A terminal state has no event: it never changes.
 * 2. A run succeeds only while it is running.
 * 3. A cancel ends the run at once unless a call is executing; then the run is cancelling, and the
 *    end of that call is the only thing that can still happen to it.
 * 4. Reaching a terminal state closes everything that has not begun, and gives up the claim.
 * 5. A run that waits gives its lease back: nothing waits in memory.
 */
import { illegalTransition } from "../../../mesh/errors.ts"

export type TerminalRunState = "succeeded" | "failed" | "cancelled" | "expired"
export type RunState = "queued" | "running" | "requires_action" | "cancelling" | TerminalRunState

export type RunEvent =
  | { readonly kind: "claim" }
  | { readonly kind: "wait"; readonly reason: string }
  | { readonly kind: "resume" }
  | { readonly kind: "succeed" }
  | { readonly kind: "fail"; readonly reason: string }
  | { readonly kind: "expire"; readonly reason: string }
  | { readonly kind: "cancel"; readonly isExecuting: boolean }
  | { readonly kind: "call_ended" }

/** What must happen in the transaction that stores the new state, besides storing it. */
export type RunEffect =
  /** Calls that have not begun and pending approvals are cancelled. */
  | "close_open"
  /** The run leaves the claim table. */
  | "drop_claim"
  /** The lease is given back, and the run becomes due when what it waits for runs out. */
  | "release_lease"
  /** The executing call is told to stop. */
  | "abort_call"

export interface RunTransition {
  readonly state: RunState
  /** Why; empty where there is nothing to say. */
  readonly reason: string
  readonly effects: readonly RunEffect[]
}

export const runStates: readonly RunState[] = [
  "queued",
  "running",
  "requires_action",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "expired",
]

const liveStates: readonly RunState[] = ["queued", "running", "requires_action"]

/** Why a run waits over which its owners vanished again and again. */
export const quarantined = "quarantined"

/** Whether nothing is done about the run until a person releases or cancels it. */
export function isQuarantined(run: { readonly state: RunState; readonly reason: string }): boolean {
  return run.state === "requires_action" && run.reason === quarantined
}

/** From which states an event is allowed. */
const allowedFrom: Readonly<Record<RunEvent["kind"], readonly RunState[]>> = {
  claim: ["queued"],
  wait: ["running"],
  resume: ["requires_action"],
  succeed: ["running"],
  fail: ["running", "requires_action"],
  expire: liveStates,
  cancel: liveStates,
  call_ended: ["cancelling"],
}

const closing: readonly RunEffect[] = ["close_open", "drop_claim"]

/** The state after an event. Throws ILLEGAL_TRANSITION that names the states reachable from here. */
export function transitionRun(state: RunState, event: RunEvent): RunTransition {
  if (!allowedFrom[event.kind].includes(state)) {
    throw illegalTransition("run", state, targetOf(event).state, nextRunStates(state))
  }
  return targetOf(event)
}

export function isTerminalRun(state: RunState): state is TerminalRunState {
  return terminalStates.has(state)
}

/** The states that a run can reach from here in one step. */
export function nextRunStates(state: RunState): readonly RunState[] {
  const next = everyEvent.filter((event) => allowedFrom[event.kind].includes(state))
  return [...new Set(next.map((event) => targetOf(event).state))]
}

function targetOf(event: RunEvent): RunTransition {
  switch (event.kind) {
    case "claim":
    case "resume":
      return { state: "running", reason: "", effects: [] }
    case "wait":
      return { state: "requires_action", reason: event.reason, effects: ["release_lease"] }
    case "succeed":
      return { state: "succeeded", reason: "", effects: closing }
    case "fail":
      return { state: "failed", reason: event.reason, effects: closing }
    case "expire":
      return { state: "expired", reason: event.reason, effects: closing }
    case "cancel":
      return event.isExecuting
        ? { state: "cancelling", reason: "cancelled", effects: ["close_open", "abort_call"] }
        : { state: "cancelled", reason: "cancelled", effects: closing }
    case "call_ended":
      return { state: "cancelled", reason: "cancelled", effects: closing }
  }
}

const everyEvent: readonly RunEvent[] = [
  { kind: "claim" },
  { kind: "wait", reason: "" },
  { kind: "resume" },
  { kind: "succeed" },
  { kind: "fail", reason: "" },
  { kind: "expire", reason: "" },
  { kind: "cancel", isExecuting: false },
  { kind: "cancel", isExecuting: true },
  { kind: "call_ended" },
]

/** By the table, once: this is asked with every change. */
const terminalStates: ReadonlySet<RunState> = new Set(
  runStates.filter((state) => nextRunStates(state).length === 0),
)
