import { create, fromJson } from "@bufbuild/protobuf"
import { durationFromMs, timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt"
import {
  AttemptFault,
  type Execution,
  ExecutionSchema,
  ExecutionState,
  type FailedAttempt,
  FailedAttemptSchema,
} from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import {
  type Provider,
  ProviderSchema,
  ProviderState,
  RefusalKind,
} from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import {
  type Tool,
  ToolDefinitionSchema,
  ToolSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { ToolErrorSchema } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { AttemptFailure } from "../ledger/answer.ts"
import type { ExecutionRow } from "../ledger/execution-store.ts"
import type { LedgerState, Usage } from "../ledger/ledger.ts"
import { fullNameOf, type PinnedTool } from "./pinned-tool.ts"
import { retryPolicyOf } from "./retry-policy.ts"
import type { ProviderRow, RefusedTool, ToolRow } from "./tool-store.ts"

/** The states of the ledger as the contract names them. */
export const executionStates: Readonly<Record<LedgerState, ExecutionState>> = {
  in_flight: ExecutionState.IN_FLIGHT,
  succeeded: ExecutionState.SUCCEEDED,
  failed: ExecutionState.FAILED,
  outcome_unknown: ExecutionState.OUTCOME_UNKNOWN,
}

const attemptFaults: Readonly<Record<AttemptFailure["fault"], AttemptFault>> = {
  not_sent: AttemptFault.NOT_SENT,
  lost: AttemptFault.LOST,
  tool_error: AttemptFault.TOOL_ERROR,
}

export function toTool(row: ToolRow): Tool {
  const definition = fromJson(ToolDefinitionSchema, row.definition)
  return create(ToolSchema, {
    fullName: fullNameOf(row),
    provider: row.provider,
    definition,
    definitionDigest: row.digest,
    active: row.active,
    createTime: timestampFromDate(row.create_time),
    retry: retryPolicyOf(definition),
  })
}

export function toExecution(row: ExecutionRow): Execution {
  return create(ExecutionSchema, {
    state: executionStates[row.state],
    outcome: toOutcome(row),
    attempts: row.attempts,
    createTime: timestampFromMs(row.createdMs),
    ...(row.endedMs === null ? {} : { endTime: timestampFromMs(row.endedMs) }),
    ...(row.usage === null ? {} : { usage: toUsage(row.usage) }),
  })
}

function toUsage({ inputTokens, outputTokens, costMicros }: Usage) {
  return {
    inputTokens: BigInt(inputTokens),
    outputTokens: BigInt(outputTokens),
    costMicros: BigInt(costMicros),
  }
}

/** Whether a row was closed without an answer. Those of earlier times were never sent at all. */
export function isSealed({ state, error, attempts }: ExecutionRow): boolean {
  return state === "failed" && (attempts === 0 || error?.reason === "given_up")
}

export function toFailedAttempt(failure: AttemptFailure, { retry }: PinnedTool): FailedAttempt {
  return create(FailedAttemptSchema, {
    fault: attemptFaults[failure.fault],
    reason: failure.reason,
    message: failure.message,
    retry,
    ...(failure.retryAfterMs === undefined
      ? {}
      : { retryAfter: durationFromMs(failure.retryAfterMs) }),
  })
}

export function toProvider(row: ProviderRow): Provider {
  return create(ProviderSchema, {
    name: row.name,
    state: providerStateOf(row),
    ...(row.attempt_time === null ? {} : { attemptTime: timestampFromDate(row.attempt_time) }),
    ...(row.refresh_time === null ? {} : { refreshTime: timestampFromDate(row.refresh_time) }),
    error: row.error ?? "",
    toolCount: row.tool_count,
    refusedTools: toRefusedTools(row.refused),
  })
}

export function toRefusedTools(refused: readonly RefusedTool[]) {
  return refused.map(({ name, version, kind, message, digest }) => ({
    name,
    version,
    kind: kind === "quarantined" ? RefusalKind.QUARANTINED : RefusalKind.INVALID,
    message,
    definitionDigest: digest,
  }))
}

function toOutcome({ result, error }: ExecutionRow): Execution["outcome"] {
  if (result !== null) return { case: "result", value: result }
  if (error === null) return { case: undefined }
  return {
    case: "error",
    value: create(ToolErrorSchema, { ...error, metadata: { ...error.metadata } }),
  }
}

export function providerStateOf(row: Pick<ProviderRow, "error" | "refresh_time">): ProviderState {
  if (row.error !== null) return ProviderState.UNAVAILABLE
  return row.refresh_time === null ? ProviderState.PENDING : ProviderState.READY
}
