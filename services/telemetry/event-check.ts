/**
 * The rules of an event, checked by hand: what the schema says (`event.proto`), which a general
 * validator takes ten times as long for, and what the database cannot keep. A test holds the first
 * half against the schema.
 */
import type { Timestamp } from "@bufbuild/protobuf/wkt"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"

/** The field that breaks a rule, by its Protobuf name; undefined for an event that can be stored. */
export function brokenField(event: Event): string | undefined {
  if (!uuidPattern.test(event.eventId)) return "event_id"
  if (!isStorableTime(event.occurTime)) return "occur_time"
  if (event.runId !== "" && !uuidPattern.test(event.runId)) return "run_id"
  if (!isText(event.traceId, 0, 32)) return "trace_id"
  const { payload } = event
  switch (payload.case) {
    case "runChanged": {
      const { state, reason } = payload.value
      if (!isText(state, 1, 32)) return "run_changed.state"
      return isText(reason, 0, 64) ? undefined : "run_changed.reason"
    }
    case "toolCallChanged": {
      const { tool, state, reason } = payload.value
      if (!isText(tool, 1, 200)) return "tool_call_changed.tool"
      if (!isText(state, 1, 32)) return "tool_call_changed.state"
      return isText(reason, 0, 64) ? undefined : "tool_call_changed.reason"
    }
    case "moderated": {
      const { verdict, subject, tool } = payload.value
      if (!verdicts.includes(verdict)) return "moderated.verdict"
      if (!isText(subject, 1, 32)) return "moderated.subject"
      return isText(tool, 0, 200) ? undefined : "moderated.tool"
    }
    case "approvalChanged": {
      const { approvalId, state } = payload.value
      if (!uuidPattern.test(approvalId)) return "approval_changed.approval_id"
      return isText(state, 1, 32) ? undefined : "approval_changed.state"
    }
    case "resourceChanged": {
      const { resource, resourceId, change } = payload.value
      if (!isText(resource, 1, 32)) return "resource_changed.resource"
      if (!isText(resourceId, 1, 200)) return "resource_changed.resource_id"
      return isText(change, 1, 32) ? undefined : "resource_changed.change"
    }
    case "budgetWarned":
      return isText(payload.value.budget, 1, 64) ? undefined : "budget_warned.budget"
    default:
      return "payload"
  }
}

const uuidPattern = /^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$/
const verdicts: readonly string[] = ["allowed", "flagged", "blocked"]

/** Length in code points, as the schema counts; and nothing that Postgres cannot keep as text. */
function isText(text: string, least: number, most: number): boolean {
  if (text.length < least || text.includes("\0")) return false
  return text.length <= most || (text.length <= 2 * most && [...text].length <= most)
}

/** The years 1970 to 2199, whose microseconds are exact numbers. */
function isStorableTime(time: Timestamp | undefined): boolean {
  if (time === undefined) return false
  const { seconds, nanos } = time
  return seconds >= 0n && seconds < 7_258_118_400n && nanos >= 0 && nanos < 1_000_000_000
}
