/** What any run may come to, whoever it is for: set by the deployment, and asked as budgets are. */
import type { Meter } from "./budget.ts"
import type { Change } from "./change.ts"
import type { ChangeStore } from "./change-store.ts"
import { isTerminalRun } from "./run.ts"

export interface RunLimits {
  /** Entries of a run's history. */
  readonly events: Limit
  /** Bytes of all arguments and results of a run. */
  readonly payloadBytes: Limit
  /** Steps of a plan. */
  readonly maxSteps: number
  /** Bytes of one call's arguments. */
  readonly maxArgumentBytes: number
}

interface Limit {
  /** From where on the history has a warning. */
  readonly warnAt: number
  /** From where on no call begins. */
  readonly most: number
}

/** Why a run ends that has come to a limit. */
export const limitReasons = {
  run_events: "event_limit_reached",
  run_payload_bytes: "payload_limit_reached",
} as const

interface Size {
  readonly events: number
  readonly payloadBytes: number
}

/** A run as it will be, with what a change has added to its history by now. */
export type Place = Pick<Change, "run" | "before"> & Partial<Pick<Change, "entries">>

/** How far a run has come to its limits. */
export function limitMeters(place: Place, limits: RunLimits): readonly Meter[] {
  const { events, payloadBytes } = sizeOf(place)
  return [
    { budget: "run_events", used: events, limit: limits.events.most },
    { budget: "run_payload_bytes", used: payloadBytes, limit: limits.payloadBytes.most },
  ]
}

/**
 * Has the history of a run that goes on say that it comes near a limit: by the one change with which
 * it does. To be called when nothing is added to the change any more.
 */
export function warnOfLimits(change: Change, limits: RunLimits): void {
  const { run, before } = change
  if (isTerminalRun(run.state)) return
  const isNew = run.revision === 0
  const earlier = isNew ? { events: 0, payloadBytes: 0 } : sizeOf({ run: before.run, before })
  const now = sizeOf(change)
  if (crosses(limits.events, earlier.events, now.events)) {
    change.entries.budgetWarned({
      ...{ budget: "run_events", used: now.events, limit: limits.events.most },
    })
  }
  if (crosses(limits.payloadBytes, earlier.payloadBytes, now.payloadBytes)) {
    change.entries.budgetWarned({
      ...{ budget: "run_payload_bytes", used: now.payloadBytes, limit: limits.payloadBytes.most },
    })
  }
}

/** A store whose changes warn. */
export function warningOfLimits(changes: ChangeStore, limits: RunLimits): ChangeStore {
  return {
    [Symbol.asyncDispose]: () => changes[Symbol.asyncDispose](),
    store(change, answer) {
      warnOfLimits(change, limits)
      return changes.store(change, answer)
    },
  }
}

function sizeOf({ run, entries }: Place): Size {
  return { events: run.eventCount + (entries?.count ?? 0), payloadBytes: run.payloadBytes }
}

function crosses({ warnAt }: Limit, earlier: number, now: number): boolean {
  return earlier < warnAt && now >= warnAt
}
