/** What a change leaves behind: an entry of the run's history, and an event for telemetry. */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import { RunEventSchema } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import type { EventSchema } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import type { Judgement } from "./judgement.ts"
import type { ApprovalRecord, RunRecord, ToolCallRecord } from "./snapshot.ts"
import {
  approvalStateEnum,
  runStateEnum,
  subjectEnum,
  toolCallStateEnum,
  verdictEnum,
} from "./state-enum.ts"

/** A history's entry as it is stored: sequence and time are the row's own. */
export type HistoryEntry = NonNullable<MessageInitShape<typeof RunEventSchema>["kind"]>
export type TelemetryEvent = MessageInitShape<typeof EventSchema>

export interface Trace {
  readonly entry: HistoryEntry
  readonly event: TelemetryEvent
}

export function encodeEntry(kind: HistoryEntry): Uint8Array {
  return toBinary(RunEventSchema, create(RunEventSchema, { kind }))
}

export function runStarted(run: RunRecord): HistoryEntry {
  const { requesterId, planName, stepCount } = run
  return { case: "runStarted", value: { requesterId, planName, stepCount } }
}

export function runChanged(run: RunRecord, elapsedMs: number): Trace {
  const { state, reason } = run
  return {
    entry: { case: "runStateChanged", value: { state: runStateEnum[state], reason } },
    event: {
      runId: run.runId,
      payload: {
        case: "runChanged",
        value: { state, reason, elapsedMillis: BigInt(Math.max(0, Math.round(elapsedMs))) },
      },
    },
  }
}

export function toolCallChanged(call: ToolCallRecord, executionMs: number): Trace {
  const { toolCallId, stepIndex, tool, state, reason } = call
  return {
    entry: {
      case: "toolCallStateChanged",
      value: { toolCallId, stepIndex, tool, state: toolCallStateEnum[state], reason },
    },
    event: {
      runId: call.runId,
      payload: {
        case: "toolCallChanged",
        value: {
          stepIndex,
          tool,
          state,
          reason,
          executionMillis: BigInt(Math.max(0, Math.round(executionMs))),
        },
      },
    },
  }
}

export function moderated(
  run: RunRecord,
  judgement: Judgement,
  call: ToolCallRecord | undefined,
): Trace {
  const { subject, verdict, decisionId, failure } = judgement
  return {
    entry: {
      case: "contentModerated",
      value: {
        subject: subjectEnum[subject],
        verdict: verdictEnum[verdict],
        decisionId,
        failure,
        ...(call === undefined ? {} : { stepIndex: call.stepIndex }),
      },
    },
    event: {
      runId: run.runId,
      payload: {
        case: "moderated",
        value: { verdict, subject, tool: call?.tool ?? "", unavailable: failure !== "" },
      },
    },
  }
}

export function approvalChanged(approval: ApprovalRecord, nowMs: number): Trace {
  const { approvalId, stepIndex, state, deciderId } = approval
  const waitMs = state === "pending" ? 0 : nowMs - approval.createTime.getTime()
  return {
    entry: {
      case: "approvalStateChanged",
      value: { approvalId, stepIndex, state: approvalStateEnum[state], deciderId },
    },
    event: {
      runId: approval.runId,
      payload: {
        case: "approvalChanged",
        value: { approvalId, state, waitMillis: BigInt(Math.max(0, Math.round(waitMs))) },
      },
    },
  }
}
