import type { Timestamp } from "@bufbuild/protobuf/wkt"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"

/** An event as it is stored; columns that its kind does not have are empty. */
export interface EventRow {
  readonly eventId: string
  readonly occurTime: string
  readonly kind: "run" | "tool_call" | "moderation" | "approval" | "resource"
  readonly runId: string | null
  readonly traceId: string
  readonly stepIndex: number | null
  readonly approvalId: string | null
  readonly name: string
  readonly state: string
  readonly reason: string
  readonly millis: number
  readonly isUnavailable: boolean
  readonly isTerminal: boolean
}

/** States after which nothing follows; an outcome that is unknown is still to be settled. */
export const terminalStates = {
  run: ["succeeded", "failed", "cancelled", "expired"],
  tool_call: ["denied", "expired", "succeeded", "failed", "cancelled"],
  approval: ["approved", "rejected", "expired", "cancelled", "superseded"],
} as const satisfies Readonly<Record<string, readonly string[]>>

export function toEventRow(event: Event): EventRow {
  const { payload } = event
  const base = {
    eventId: event.eventId,
    occurTime: toTimeText(event.occurTime),
    runId: event.runId === "" ? null : event.runId,
    traceId: event.traceId,
    stepIndex: null,
    approvalId: null,
    name: "",
    reason: "",
    millis: 0,
    isUnavailable: false,
    isTerminal: false,
  }
  switch (payload.case) {
    case "runChanged": {
      const { state, reason, elapsedMillis } = payload.value
      const isTerminal = isOneOf(terminalStates.run, state)
      return { ...base, kind: "run", state, reason, millis: toMillis(elapsedMillis), isTerminal }
    }
    case "toolCallChanged": {
      const { state, reason, stepIndex, tool, executionMillis } = payload.value
      const isTerminal = isOneOf(terminalStates.tool_call, state)
      const millis = toMillis(executionMillis)
      return {
        ...base,
        kind: "tool_call",
        name: tool,
        stepIndex,
        state,
        reason,
        millis,
        isTerminal,
      }
    }
    case "moderated": {
      const { verdict, subject, unavailable } = payload.value
      return {
        ...base,
        kind: "moderation",
        name: subject,
        state: verdict,
        isUnavailable: unavailable,
      }
    }
    case "approvalChanged": {
      const { approvalId, state, waitMillis } = payload.value
      const isTerminal = isOneOf(terminalStates.approval, state)
      return {
        ...base,
        kind: "approval",
        approvalId,
        state,
        millis: toMillis(waitMillis),
        isTerminal,
      }
    }
    case "resourceChanged": {
      const { resource, resourceId, change } = payload.value
      return { ...base, kind: "resource", name: `${resource} ${resourceId}`, state: change }
    }
    default:
      throw new Error("validation lets no event without a payload pass")
  }
}

/** RFC 3339 with microseconds, which is what Postgres keeps: events of one millisecond stay in order. */
function toTimeText(time: Timestamp | undefined): string {
  if (time === undefined) throw new Error("validation lets no event without a time pass")
  const seconds = new Date(Number(time.seconds) * 1000).toISOString().slice(0, 19)
  const micros = Math.floor(time.nanos / 1000)
  return `${seconds}.${String(micros).padStart(6, "0")}Z`
}

function toMillis(value: bigint): number {
  return Number(value > maxMillis ? maxMillis : value)
}

const maxMillis = BigInt(Number.MAX_SAFE_INTEGER)

function isOneOf(states: readonly string[], state: string): boolean {
  return states.includes(state)
}
