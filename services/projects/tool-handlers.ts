import { create, type JsonObject } from "@bufbuild/protobuf"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import {
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
  Outcome,
  type ToolProviderService,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { type Caller, callerOf } from "../../mesh/identity.ts"
import { requireRole } from "../../mesh/interceptors.ts"
import type { Handlers } from "../../mesh/service.ts"
import { documentTools } from "./document-tools.ts"
import { answerKeyed, findAnswer, toolErrorOf } from "./keyed-calls.ts"
import type { HandlerDeps } from "./project-handlers.ts"
import { projectTools } from "./project-tools.ts"
import type { Tool } from "./tool.ts"

const tools: readonly Tool[] = [...projectTools, ...documentTools]

export function toolHandlers({ database, changed }: HandlerDeps) {
  return {
    listTools() {
      return { tools: tools.map((tool) => tool.definition) }
    },

    async executeTool(request, context) {
      const caller = callerOf(context)
      const tool = findTool(request.tool, request.version)
      requireMayRun(tool, caller)
      const args = request.arguments ?? {}
      const work = tool.prepare(args)
      const author = { actorId: caller.actorId, runId: request.runId }
      if (tool.effect === "read") {
        const read = database.tenant(caller.workspaceId, (tx) => work(tx, author), {
          signal: context.signal,
          name: request.tool,
        })
        return read.then(toResult, toError)
      }
      const key = {
        workspaceId: caller.workspaceId,
        tool: request.tool,
        idempotencyKey: request.idempotencyKey,
        argumentsDigest: digestOfStruct(args),
      }
      const run = async (tx: Parameters<typeof work>[0]) => toResult(await work(tx, author))
      const response = await answerKeyed(database, key, run, context.signal)
      changed()
      return response
    },

    async getOutcome(request, context) {
      const { workspaceId } = callerOf(context)
      const { tool, idempotencyKey } = request
      const known = tools.find(({ definition }) => definition.name === tool)
      if (known === undefined) throw unknownTool(tool)
      if (known.effect === "read") return { outcome: Outcome.NOT_EXECUTED }
      const key = { workspaceId, tool, idempotencyKey }
      const response = await findAnswer(database, key, context.signal)
      // Without an answer the call may still be on its way here, so that "never will" is not known.
      return response === undefined
        ? { outcome: Outcome.UNKNOWN }
        : { outcome: Outcome.COMPLETED, response }
    },
  } satisfies Handlers<typeof ToolProviderService>
}

function findTool(name: string, version: string): Tool {
  const tool = tools.find(
    ({ definition }) => definition.name === name && definition.version === version,
  )
  if (tool === undefined) throw unknownTool(`${name}@${version}`)
  return tool
}

/** The same role that the RPC of the same name asks for, checked again where the effect is. */
function requireMayRun(tool: Tool, caller: Caller): void {
  if (caller.kind !== "member") return
  requireRole(caller.role, tool.effect === "read" ? Role.VIEWER : Role.MEMBER)
}

function unknownTool(tool: string): RunwardenError {
  return new RunwardenError("UNKNOWN_TOOL", { field: "tool", tool })
}

function toResult(result: JsonObject): ExecuteToolResponse {
  return create(ExecuteToolResponseSchema, { outcome: { case: "result", value: result } })
}

function toError(failure: unknown): ExecuteToolResponse {
  const error = toolErrorOf(failure)
  if (error === undefined) throw failure
  return create(ExecuteToolResponseSchema, { outcome: { case: "error", value: error } })
}
