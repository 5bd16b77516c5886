/**
 * What telemetry is told of a row of the journal: verdicts, and states in which something rests, not
 * every one on the way there.
 */
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { RunEvent } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { ListRunEventsResponseSchema } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { EventSchema } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import type { DeliveredRow } from "./journal-delivery-store.ts"
import {
  approvalStateEnum,
  runStateEnum,
  subjectEnum,
  toolCallStateEnum,
  verdictEnum,
  wordOf,
} from "./state-enum.ts"
import type { ToolCallState } from "./tool-call.ts"

type TelemetryEvent = MessageInitShape<typeof EventSchema>
type Payload = NonNullable<TelemetryEvent["payload"]>

/** States through which a call only passes. */
const passing: ReadonlySet<ToolCallState> = new Set([
  "proposed",
  "moderating",
  "ready",
  "executing",
])

/** The events of a row. Their ids follow from the row, so that sent again they are the same. */
export function toTelemetry(row: DeliveredRow): TelemetryEvent[] {
  const occurTime = timestampFromDate(row.createTime)
  const elapsedMs = row.createTime.getTime() - row.runTime.getTime()
  const { events } = fromBinary(ListRunEventsResponseSchema, row.entries)
  return events.flatMap((event, index) => {
    const payload = payloadOf(event.kind, elapsedMs)
    if (payload === undefined) return []
    const eventId = eventIdOf(row, index)
    return [{ eventId, occurTime, runId: row.runId, traceId: row.traceId, payload }]
  })
}

/**
 * A UUID (version 8) of position, place in the row, and hash of the row: the first keep the order in
 * which events come, the last one keeps rows apart that took the same position, as they may after
 * the database was restored to an earlier time.
 */
export function eventIdOf(row: Pick<DeliveredRow, "position" | "hash">, index: number): string {
  const position = row.position.toString(16).padStart(12, "0")
  const place = (index % 4096).toString(16).padStart(3, "0")
  const hash = Buffer.from(row.hash.buffer, row.hash.byteOffset, 8).toString("hex")
  const group = hash.slice(0, 3)
  return `${position.slice(0, 8)}-${position.slice(8)}-8${place}-8${group}-${hash.slice(3, 15)}`
}

function payloadOf(kind: RunEvent["kind"], elapsedMs: number): Payload | undefined {
  switch (kind.case) {
    case "runStateChanged": {
      const { reason } = kind.value
      const state = wordOf(runStateEnum, kind.value.state) ?? ""
      const elapsedMillis = BigInt(Math.max(0, elapsedMs))
      return { case: "runChanged", value: { state, reason, elapsedMillis } }
    }
    case "toolCallStateChanged": {
      const { stepIndex, tool, reason, executionMillis } = kind.value
      const state = wordOf(toolCallStateEnum, kind.value.state)
      if (state === undefined || passing.has(state)) return undefined
      return { case: "toolCallChanged", value: { stepIndex, tool, state, reason, executionMillis } }
    }
    case "contentModerated": {
      const { tool, failure } = kind.value
      const verdict = wordOf(verdictEnum, kind.value.verdict) ?? "blocked"
      const subject = wordOf(subjectEnum, kind.value.subject) ?? ""
      return { case: "moderated", value: { verdict, subject, tool, unavailable: failure !== "" } }
    }
    case "approvalStateChanged": {
      const { approvalId, waitMillis, breakGlass } = kind.value
      const state = wordOf(approvalStateEnum, kind.value.state) ?? ""
      return { case: "approvalChanged", value: { approvalId, state, waitMillis, breakGlass } }
    }
    default:
      return undefined
  }
}
