import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type SettleToolCallRequest,
  SettleToolCallResponseSchema,
  ToolCallService,
} from "../../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import type { Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { callerOf } from "../../../mesh/identity.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { toolCallStateEnum, wordOf } from "../state-enum.ts"
import { type AnsweredChangeDeps, answerChanging } from "./answered-change.ts"
import { type SettledOutcome, settleToolCall } from "./answers.ts"
import { keptCall } from "./kept-answers.ts"
import { readSnapshot } from "./snapshot-store.ts"
import { toToolCall } from "./tool-call-message.ts"
import { findToolCall, listToolCalls } from "./tool-call-store.ts"

const sizes = { default: 50, max: 200 }

/** ToolCallService. */
export function toolCallHandlers(deps: AnsweredChangeDeps) {
  const { database } = deps
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
          const page = { limit: limit + 1, after }
          return listToolCalls(tx, workspaceId, { runId, states, tool }, page)
        },
        { signal },
      )
      const page = calls.slice(0, limit)
      const last = page.at(-1)
      const cursor = [last?.runId ?? "", String(last?.stepIndex)]
      return {
        toolCalls: page.map((call) => toToolCall(call, "listed")),
        nextPageToken: calls.length > limit ? nextPage(filters, cursor) : "",
      }
    },

    settleToolCall(request, context) {
      const { workspaceId, toolCallId } = request
      const outcome = outcomeOf(request)
      const decide = async (tx: Tx) => {
        const snapshot = await readSnapshot(tx, workspaceId, { kind: "tool_call", id: toolCallId })
        const call = snapshot?.calls.find((each) => each.toolCallId === toolCallId)
        if (snapshot === undefined || call === undefined) throw notFound("tool_call", toolCallId)
        const change = settleToolCall(snapshot, call, outcome, callerOf(context))
        const toolCall = toToolCall(change.call(call.stepIndex))
        return { change, response: create(SettleToolCallResponseSchema, { toolCall }) }
      }
      const { settleToolCall: method } = ToolCallService.method
      return answerChanging(deps, method, request, decide, keptCall, context.signal)
    },
  } satisfies ServiceImpl<typeof ToolCallService>
}

function outcomeOf({ outcome }: SettleToolCallRequest): SettledOutcome {
  switch (outcome.case) {
    case "result":
      return { kind: "result", result: outcome.value }
    case "error": {
      const { reason, message, metadata } = outcome.value
      return { kind: "error", error: { reason, message, metadata } }
    }
    default:
      throw new RunwardenError("INVALID_REQUEST", { field: "outcome" })
  }
}
