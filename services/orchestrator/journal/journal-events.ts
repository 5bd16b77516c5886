/**
 * What telemetry is told of a row of the journal: verdicts, and states in which something rests, not
 * every one on the way there.
 */

import { createHash } from "node:crypto"
import type { MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { EventSchema } from "../../../gen/runwarden/telemetry/v1/event_pb.ts"
import { dayMeters } from "../budget/budget.ts"
import type { ToolCallState } from "../run/tool-call.ts"
import {
  approvalStateEnum,
  runStateEnum,
  subjectEnum,
  toolCallStateEnum,
  verdictEnum,
} from "../state-enum.ts"
import type { DayWarning, DeliveredRow } from "./journal-delivery-store.ts"
import { entryKinds } from "./journal-entries.ts"
import { JournalEntryReader } from "./journal-entry-reader.ts"

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
  const { runId, traceId } = row
  const occurTime = timestampFromDate(row.createTime)
  const elapsedMs = Math.max(0, row.createTime.getTime() - row.runTime.getTime())
  const idOf = eventIdsOf(row)
  const events: TelemetryEvent[] = []
  const entry = new JournalEntryReader(row.entries)
  for (let index = 0; entry.next(); index++) {
    const payload = payloadOf(entry, elapsedMs)
    if (payload === undefined) continue
    events.push({ eventId: idOf(index), occurTime, runId, traceId, payload })
  }
  return events
}

/**
 * The event that a workspace comes near a budget of its day: the one of which most is used up. Its id
 * follows from the day, so that sent again it is the same.
 */
export function toWarning(workspaceId: string, warning: DayWarning): TelemetryEvent | undefined {
  const [meter] = dayMeters(warning).toSorted(
    (one, other) => other.used / other.limit - one.used / one.limit,
  )
  // The budget was taken away meanwhile.
  if (meter === undefined) return undefined
  const { budget, used, limit } = meter
  const value = { budget, used: BigInt(used), limit: BigInt(limit) }
  const hash = createHash("sha256").update(`${workspaceId} ${warning.day}`).digest("hex")
  const eventId = `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-8${hash.slice(17, 20)}-${hash.slice(20, 32)}`
  const occurTime = timestampFromDate(new Date(warning.time))
  return { eventId, occurTime, payload: { case: "budgetWarned", value } }
}

/**
 * The ids of a row's events by their place: UUIDs (version 8) of position, place in the row, and hash
 * of the row: the first keep the order in which events come, the last one keeps rows apart that took
 * the same position, as they may after the database was restored to an earlier time.
 */
export function eventIdsOf(
  row: Pick<DeliveredRow, "position" | "hash">,
): (index: number) => string {
  const position = row.position.toString(16).padStart(12, "0")
  const hash = Buffer.from(row.hash.buffer, row.hash.byteOffset, 8).toString("hex")
  const before = `${position.slice(0, 8)}-${position.slice(8)}-8`
  const behind = `-8${hash.slice(0, 3)}-${hash.slice(3, 15)}`
  return (index) => `${before}${(index % 4096).toString(16).padStart(3, "0")}${behind}`
}

function payloadOf(entry: JournalEntryReader, elapsedMs: number): Payload | undefined {
  switch (entry.kind) {
    case entryKinds.runStateChanged: {
      const state = runStates[entry.number(1)] ?? ""
      const value = { state, reason: entry.text(2), elapsedMillis: BigInt(elapsedMs) }
      return { case: "runChanged", value }
    }
    case entryKinds.toolCallStateChanged: {
      const state = callStates[entry.number(4)]
      if (state === undefined || passing.has(state)) return undefined
      const executionMillis = BigInt(entry.number(6))
      const [stepIndex, tool, reason] = [entry.number(2), entry.text(3), entry.text(5)]
      const value = { stepIndex, tool, state, reason, executionMillis }
      const usage = usageOf(entry)
      return {
        case: "toolCallChanged",
        value: usage === undefined ? value : { ...value, ...usage },
      }
    }
    case entryKinds.contentModerated: {
      const subject = subjects[entry.number(1)] ?? ""
      const verdict = verdicts[entry.number(2)] ?? "blocked"
      const unavailable = entry.text(5) !== ""
      return { case: "moderated", value: { verdict, subject, tool: entry.text(6), unavailable } }
    }
    case entryKinds.approvalStateChanged: {
      const state = approvalStates[entry.number(3)] ?? ""
      const waitMillis = BigInt(entry.number(5))
      const breakGlass = entry.number(6) !== 0
      const value = { approvalId: entry.text(1), state, waitMillis, breakGlass }
      return { case: "approvalChanged", value }
    }
    case entryKinds.budgetWarned: {
      const [used, limit] = [BigInt(entry.number(2)), BigInt(entry.number(3))]
      return { case: "budgetWarned", value: { budget: entry.text(1), used, limit } }
    }
    default:
      return undefined
  }
}

/** What a call used up; nothing where it reports nothing, as most do. */
function usageOf(entry: JournalEntryReader) {
  const inputTokens = entry.number(7)
  const outputTokens = entry.number(8)
  const costMicros = entry.number(9)
  if (inputTokens + outputTokens + costMicros === 0) return undefined
  return {
    inputTokens: BigInt(inputTokens),
    outputTokens: BigInt(outputTokens),
    costMicros: BigInt(costMicros),
  }
}

const runStates = wordsByNumber(runStateEnum)
const callStates = wordsByNumber(toolCallStateEnum)
const approvalStates = wordsByNumber(approvalStateEnum)
const subjects = wordsByNumber(subjectEnum)
const verdicts = wordsByNumber(verdictEnum)

function wordsByNumber<Word extends string>(
  numbers: Readonly<Record<Word, number>>,
): readonly (Word | undefined)[] {
  const words: (Word | undefined)[] = []
  for (const word of Object.keys(numbers) as Word[]) words[numbers[word]] = word
  return words
}
