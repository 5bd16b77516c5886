/** What any run may come to, whoever it is for: set by the deployment, and asked as budgets are. */

import type { Change } from "../change/change.ts"
import type { ChangeStore } from "../change/change-store.ts"
import { isTerminalRun } from "../run/run.ts"
import type { Meter } from "./budget.ts"

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

/** A run as it will be, with what a change has added to its history by now. */
export type Place = Pick<Change, "run" | "before"> & Partial<Pick<Change, "entries">>

/** The limit that a run has come to; undefined where it may go on. */
export function reachedLimit(place: Place, limits: RunLimits): Meter | undefined {
  const events = eventsOf(place)
  if (events >= limits.events.most) return eventMeter(events, limits)
  const { payloadBytes } = place.run
  return payloadBytes >= limits.payloadBytes.most ? payloadMeter(payloadBytes, limits) : undefined
}

/**
 * Has the history of a run that goes on say that it comes near a limit: by the one change with which
 * it does. To be called when nothing is added to the change any more.
 */
export function warnOfLimits(change: Change, limits: RunLimits): void {
  const { run, before } = change
  const isNew = run.revision === 0
  const events = eventsOf(change)
  const { payloadBytes } = run
  const isLong = crosses(limits.events, isNew ? 0 : before.run.eventCount, events)
  const isLarge = crosses(limits.payloadBytes, isNew ? 0 : before.run.payloadBytes, payloadBytes)
  if ((!isLong && !isLarge) || isTerminalRun(run.state)) return
  if (isLong) change.entries.budgetWarned(eventMeter(events, limits))
  if (isLarge) change.entries.budgetWarned(payloadMeter(payloadBytes, limits))
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

function eventsOf({ run, entries }: Place): number {
  return run.eventCount + (entries?.count ?? 0)
}

function eventMeter(used: number, { events }: RunLimits): Meter {
  return { budget: "run_events", used, limit: events.most }
}

function payloadMeter(used: number, { payloadBytes }: RunLimits): Meter {
  return { budget: "run_payload_bytes", used, limit: payloadBytes.most }
}

function crosses({ warnAt }: Limit, earlier: number, now: number): boolean {
  return earlier < warnAt && now >= warnAt
}
