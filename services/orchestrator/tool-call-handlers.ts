import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type SettleToolCallRequest,
  SettleToolCallResponseSchema,
  ToolCallService,
} from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { type Answered, settleToolCall } from "./answers.ts"
import type { Change } from "./change.ts"
import type { ToolCallRecord } from "./snapshot.ts"
import { toolCallStateEnum, wordOf } from "./state-enum.ts"
import { toToolCall } from "./tool-call-message.ts"
import { findToolCall, listToolCalls } from "./tool-call-store.ts"

export interface ToolCallHandlerDeps {
  readonly database: Database
  stored(change: Change): void
}

const sizes = { default: 50, max: 200 }

/** ToolCallService. */
export function toolCallHandlers({ database, stored }: ToolCallHandlerDeps) {
  return {
    async getToolCall({ workspaceId, toolCallId }, { signal }) {
      const call = await database.tenant(
        workspaceId,
        (tx) => findToolCall(tx, workspaceId, toolCallId),
        { signal },
      )
      if (call === undefined) throw notFound("tool_call", toolCallId)
      return { toolCall: toToolCall(call) }
    },

    async listToolCalls(request, { signal }) {
      const { workspaceId, runId, tool } = request
      const states = request.states.flatMap((state) => wordOf(toolCallStateEnum, state) ?? [])
      const filters = { workspaceId, runId, tool, states }
      const { limit, after } = readPage(request, filters, sizes)
      const calls = await database.tenant(
        workspaceId,
        (tx) => {
          const page = { limit: limit + 1, after: after?.[0] }
          return listToolCalls(tx, workspaceId, { runId, states, tool }, page)
        },
        { signal },
      )
      const page = calls.slice(0, limit)
      const last = page.at(-1)
      const cursor = runId === "" ? last?.toolCallId : String(last?.stepIndex)
      return {
        toolCalls: page.map((call) => toToolCall(call, "listed")),
        nextPageToken: calls.length > limit ? nextPage(filters, [cursor ?? ""]) : "",
      }
    },

    async settleToolCall(request, context) {
      const { workspaceId, toolCallId } = request
      let settled: Answered<ToolCallRecord> | undefined
      const response = await answerOnce(
        database,
        ToolCallService.method.settleToolCall,
        request,
        async (tx) => {
          const outcome = outcomeOf(request)
          settled = await settleToolCall(
            tx,
            { workspaceId, toolCallId, outcome },
            callerOf(context),
          )
          const toolCall = toToolCall(settled.resource)
          return create(SettleToolCallResponseSchema, { toolCall })
        },
        { signal: context.signal },
      )
      if (settled?.change !== undefined) stored(settled.change)
      return response
    },
  } satisfies ServiceImpl<typeof ToolCallService>
}

function outcomeOf({ outcome }: SettleToolCallRequest) {
  switch (outcome.case) {
    case "result":
      return { kind: "result" as const, result: outcome.value }
    case "error": {
      const { reason, message, metadata } = outcome.value
      return { kind: "error" as const, error: { reason, message, metadata } }
    }
    default:
      throw new RunwardenError("INVALID_REQUEST", { field: "outcome" })
  }
}
