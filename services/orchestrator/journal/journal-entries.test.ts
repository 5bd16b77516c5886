/** Entries as the hand-written encoder stores them, read by the general one, and by hand for telemetry. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { RunEvent } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { ListRunEventsResponseSchema } from "../../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { Verdict } from "../action.ts"
import { approvalStates } from "../approval/approval.ts"
import type { GivenAnswer } from "../approval/approval-answer.ts"
import type { Meter } from "../budget/budget.ts"
import type { Judgement } from "../engine/judgement.ts"
import { runStates } from "../run/run.ts"
import type { ApprovalRecord, RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import { toolCallStates } from "../run/tool-call.ts"
import {
  approvalStateEnum,
  runStateEnum,
  type SubjectName,
  subjectEnum,
  toolCallStateEnum,
  verdictEnum,
  wordOf,
} from "../state-enum.ts"
import { JournalEntries } from "./journal-entries.ts"
import { toTelemetry } from "./journal-events.ts"

const text = fc.string({ unit: "binary", maxLength: 300 })
const count = fc.integer({ min: 0, max: 2 ** 31 - 1 })
const millis = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })
const verdicts: readonly Verdict[] = ["allowed", "flagged", "blocked"]
const subjects: readonly SubjectName[] = ["run_input", "tool_arguments", "tool_result"]

/** What is added, and what must be read. */
const entry = fc.oneof(
  fc.record({ requesterId: text, planName: text, stepCount: count }).map((value) => ({
    add: (entries: JournalEntries) => entries.runStarted(value as RunRecord),
    kind: { case: "runStarted" as const, value },
  })),
  fc.record({ state: fc.constantFrom(...runStates), reason: text }).map((value) => ({
    add: (entries: JournalEntries) => entries.runChanged(value as RunRecord),
    kind: {
      case: "runStateChanged" as const,
      value: { ...value, state: runStateEnum[value.state] },
    },
  })),
  fc
    .record({
      toolCallId: text,
      stepIndex: count,
      tool: text,
      state: fc.constantFrom(...toolCallStates),
      reason: text,
      executionMs: millis,
      usage: fc.option(fc.record({ inputTokens: millis, outputTokens: count, costMicros: count }), {
        nil: undefined,
      }),
    })
    .map(({ executionMs, usage, ...value }) => ({
      add: (entries: JournalEntries) =>
        entries.toolCallChanged(value as ToolCallRecord, executionMs, usage),
      kind: {
        case: "toolCallStateChanged" as const,
        value: {
          ...value,
          state: toolCallStateEnum[value.state],
          executionMillis: BigInt(executionMs),
          inputTokens: BigInt(usage?.inputTokens ?? 0),
          outputTokens: BigInt(usage?.outputTokens ?? 0),
          costMicros: BigInt(usage?.costMicros ?? 0),
        },
      },
    })),
  fc
    .record({
      subject: fc.constantFrom(...subjects),
      verdict: fc.constantFrom(...verdicts),
      decisionId: text,
      failure: text,
      call: fc.option(fc.record({ stepIndex: count, tool: text }), { nil: undefined }),
    })
    .map(({ call, ...value }) => ({
      add: (entries: JournalEntries) =>
        entries.moderated(value as Judgement, call as ToolCallRecord | undefined),
      kind: {
        case: "contentModerated" as const,
        value: {
          ...value,
          ...call,
          subject: subjectEnum[value.subject],
          verdict: verdictEnum[value.verdict],
        },
      },
    })),
  fc.record({ budget: text, used: count, limit: count }).map((value) => ({
    add: (entries: JournalEntries) => entries.budgetWarned(value as Meter),
    kind: {
      case: "budgetWarned" as const,
      value: { ...value, used: BigInt(value.used), limit: BigInt(value.limit) },
    },
  })),
  fc
    .record({
      approvalId: text,
      stepIndex: count,
      state: fc.constantFrom(...approvalStates),
      deciderId: text,
      isGlassBroken: fc.boolean(),
      waitMs: fc.integer({ min: 0, max: 2 ** 40 }),
    })
    .map(({ waitMs, isGlassBroken, ...value }) => ({
      add: (entries: JournalEntries) => {
        const approval = { ...value, isGlassBroken, createTime: new Date(1_000) }
        entries.approvalChanged(approval as ApprovalRecord, 1_000 + waitMs)
      },
      kind: {
        case: "approvalStateChanged" as const,
        value: {
          ...value,
          state: approvalStateEnum[value.state],
          waitMillis: BigInt(value.state === "pending" ? 0 : waitMs),
          breakGlass: value.state === "approved" && isGlassBroken,
        },
      },
    })),
  fc
    .record({
      approvalId: text,
      stepIndex: count,
      actorId: text,
      approved: fc.boolean(),
      delegatorId: text,
      breakGlass: fc.boolean(),
      approveCount: count,
      quorum: count,
    })
    .map((value) => ({
      add: (entries: JournalEntries) => {
        const { approvalId, stepIndex, approveCount, quorum, actorId, delegatorId } = value
        const approval = { approvalId, stepIndex, approveCount, rule: { quorum } }
        const given = {
          actorId,
          answer: value.approved ? "approve" : "reject",
          delegation: { delegationId: "d", delegatorId },
          breakGlassReason: value.breakGlass ? "why" : undefined,
        }
        entries.approvalAnswered(approval as ApprovalRecord, given as GivenAnswer)
      },
      kind: { case: "approvalAnswered" as const, value },
    })),
)

const row = {
  workspaceId: "w",
  position: 0x1_2345_6789,
  runId: "r",
  traceId: "t",
  hash: Buffer.alloc(32, 0xab),
  createTime: new Date(5_000),
  runTime: new Date(3_000),
  warning: null,
}

function idOf(index: number): string {
  return `00012345-6789-8${index.toString(16).padStart(3, "0")}-8aba-babababababa`
}

function payloadOf(kind: RunEvent["kind"]): unknown {
  switch (kind.case) {
    case "runStateChanged": {
      const { state, reason } = kind.value
      const value = { state: wordOf(runStateEnum, state), reason, elapsedMillis: 2_000n }
      return { case: "runChanged", value }
    }
    case "toolCallStateChanged": {
      const { stepIndex, tool, reason, executionMillis } = kind.value
      const state = wordOf(toolCallStateEnum, kind.value.state) ?? ""
      if (["proposed", "moderating", "ready", "executing"].includes(state)) return undefined
      const { inputTokens, outputTokens, costMicros } = kind.value
      const isUsed = inputTokens + outputTokens + costMicros > 0n
      const used = isUsed ? { inputTokens, outputTokens, costMicros } : {}
      const value = { stepIndex, tool, state, reason, executionMillis, ...used }
      return { case: "toolCallChanged", value }
    }
    case "contentModerated": {
      const { tool, failure } = kind.value
      const verdict = wordOf(verdictEnum, kind.value.verdict)
      const subject = wordOf(subjectEnum, kind.value.subject)
      return { case: "moderated", value: { verdict, subject, tool, unavailable: failure !== "" } }
    }
    case "approvalStateChanged": {
      const { approvalId, waitMillis, breakGlass } = kind.value
      const state = wordOf(approvalStateEnum, kind.value.state)
      return { case: "approvalChanged", value: { approvalId, state, waitMillis, breakGlass } }
    }
    case "budgetWarned": {
      const { budget, used, limit } = kind.value
      return { case: "budgetWarned", value: { budget, used, limit } }
    }
    default:
      return undefined
  }
}

describe("entries of the journal", () => {
  it("are the bytes of a ListRunEventsResponse", () => {
    const check = fc.property(fc.array(entry, { maxLength: 30 }), (added) => {
      const entries = new JournalEntries()
      for (const { add } of added) add(entries)
      const events = added.map(({ kind }) => ({ kind }))
      const expected = create(ListRunEventsResponseSchema, { events })
      expect(entries.count).toBe(added.length)
      expect(fromBinary(ListRunEventsResponseSchema, entries.bytes)).toEqual(expected)
      expect(entries.bytes.equals(toBinary(ListRunEventsResponseSchema, expected))).toBe(true)
    })
    fc.assert(check, { seed: 20_261_124, numRuns: 500 })
  })

  it("tell telemetry what a general decoder reads", () => {
    const check = fc.property(fc.array(entry, { maxLength: 30 }), (added) => {
      const entries = new JournalEntries()
      for (const { add } of added) add(entries)
      const told = toTelemetry({ ...row, entries: entries.bytes })
      const { events } = fromBinary(ListRunEventsResponseSchema, entries.bytes)
      const expected = events.map(({ kind }, index) => [idOf(index), payloadOf(kind)] as const)
      expect(told.map(({ eventId, payload }) => [eventId, payload])).toEqual(
        expected.filter(([, payload]) => payload !== undefined),
      )
    })
    fc.assert(check, { seed: 20_261_122, numRuns: 500 })
  })
})
