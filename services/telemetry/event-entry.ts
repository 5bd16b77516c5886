import type { Timestamp } from "@bufbuild/protobuf/wkt"
import type { Event, ToolCallChanged } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import type { Amounts, Entry } from "./run-record.ts"

/** What is kept of an event that breaks no rule (event-check.ts). */
export function toEntry({ eventId, occurTime, payload }: Event): Entry {
  const base = { eventId: eventId.toLowerCase(), micros: toMicros(occurTime) }
  switch (payload.case) {
    case "runChanged": {
      const { state, reason, elapsedMillis } = payload.value
      return entry(base, "run", { state, reason, millis: toMillis(elapsedMillis) })
    }
    case "toolCallChanged": {
      const { state, reason, stepIndex, tool: name, executionMillis } = payload.value
      const millis = toMillis(executionMillis)
      const amounts = usageOf(payload.value)
      return entry(base, "tool_call", { state, reason, name, stepIndex, millis, amounts })
    }
    case "moderated": {
      const { verdict: state, subject: name, tool: about, unavailable } = payload.value
      return entry(base, "moderation", { state, name, about, isMarked: unavailable })
    }
    case "approvalChanged": {
      const { approvalId, state, waitMillis, breakGlass: isMarked } = payload.value
      const about = approvalId.toLowerCase()
      return entry(base, "approval", { state, about, millis: toMillis(waitMillis), isMarked })
    }
    case "resourceChanged": {
      const { change: state, resource: name, resourceId: about } = payload.value
      return entry(base, "resource", { state, name, about })
    }
    case "budgetWarned": {
      const { budget: name, used, limit } = payload.value
      return entry(base, "budget", {
        state: "warned",
        name,
        amounts: [toMillis(used), toMillis(limit), 0],
      })
    }
    default:
      throw new Error("an event without a payload was not refused")
  }
}

/** All entries have their members in one order, which keeps what reads them fast. */
function entry(
  { eventId, micros }: Pick<Entry, "eventId" | "micros">,
  kind: Entry["kind"],
  own: Partial<Entry> & Pick<Entry, "state">,
): Entry {
  const { state, reason = "", name = "", about = "", stepIndex = 0, millis = 0 } = own
  const { isMarked = false, amounts } = own
  return { eventId, micros, kind, state, reason, name, about, stepIndex, millis, isMarked, amounts }
}

function usageOf({ inputTokens, outputTokens, costMicros }: ToolCallChanged): Amounts | undefined {
  if (inputTokens === 0n && outputTokens === 0n && costMicros === 0n) return undefined
  return [toAmount(inputTokens), toAmount(outputTokens), toAmount(costMicros)]
}

function toMicros(time: Timestamp | undefined): number {
  if (time === undefined) throw new Error("an event without a time was not refused")
  return Number(time.seconds) * 1_000_000 + Math.floor(time.nanos / 1_000)
}

function toMillis(value: bigint): number {
  return Number(value > maxMillis ? maxMillis : value)
}

const maxMillis = BigInt(Number.MAX_SAFE_INTEGER)

/** So that what a workspace uses in a month is still an exact number. */
function toAmount(value: bigint): number {
  return Number(value > maxAmount ? maxAmount : value)
}

const maxAmount = 10n ** 12n
