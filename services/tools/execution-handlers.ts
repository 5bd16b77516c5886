import { create } from "@bufbuild/protobuf"
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect"
import { trace } from "@opentelemetry/api"
import type {
  ExecuteRequest,
  ExecutionService,
  SealExecutionRequest,
} from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { ValidateArgumentsResponseSchema } from "../../gen/runwarden/tools/v1/resolution_pb.ts"
import { digestOf, digestOfStruct } from "../../mesh/canonical.ts"
import type { Database } from "../../mesh/database.ts"
import { defaultTimeoutMs } from "../../mesh/deadline.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf, type Subject } from "../../mesh/identity.ts"
import type { Catalogue } from "./catalogue.ts"
import { findExecution } from "./execution-store.ts"
import type { Executor } from "./executor.ts"
import { type PinnedTool, requireValidArguments } from "./pinned-tool.ts"
import { resolveOffered, resolvePlan } from "./plan-resolution.ts"
import type { ProviderClient, Registry } from "./registry.ts"
import { toExecution, toTool } from "./tool-message.ts"

export interface ExecutionHandlerDeps {
  readonly database: Database
  readonly registry: Registry
  readonly catalogue: Catalogue
  readonly executor: Executor
  readonly providers: ReadonlyMap<string, ProviderClient>
}

const maxReserveMs = 500

export function executionHandlers(deps: ExecutionHandlerDeps) {
  const { database, registry, catalogue, executor, providers } = deps
  return {
    async resolveTool({ name, version }, context) {
      const { row } = await resolveOffered(registry, name, version, context.signal)
      return { tool: toTool(row) }
    },

    resolvePlan({ steps }, context) {
      return resolvePlan(registry, steps, context.signal)
    },

    async validateArguments({ definitionDigest, arguments: args }) {
      const tool = await catalogue.pinned(definitionDigest)
      if (tool === undefined) throw unknownDigest(definitionDigest)
      requireValidArguments(tool, args ?? {})
      return create(ValidateArgumentsResponseSchema)
    },

    async execute(request, context) {
      const args = request.arguments ?? {}
      requireNamedCall(request, context)
      const { definitionDigest, tool: name } = request
      const tool =
        catalogue.knownPinned(definitionDigest, name) ??
        (await catalogue.pinned(definitionDigest, name))
      if (tool === undefined) throw unknownDigest(definitionDigest, name)
      describeSpan(tool, request.workspaceId)
      requireValidArguments(tool, args)
      const client = providers.get(tool.provider)
      if (client === undefined) {
        throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: tool.provider })
      }
      const { row, isReplayed } = await executor.execute({
        ...request,
        arguments: args,
        client,
        tool,
        fullName: tool.fullName,
        requestDigest: requestDigestOf(request),
        subject: subjectOf(context),
        deadline: deadlineOf(context),
        callerSignal: context.signal,
      })
      return { execution: toExecution(row), replayed: isReplayed }
    },

    async sealExecution(request, context) {
      const { definitionDigest, tool: name } = request
      const tool =
        catalogue.knownPinned(definitionDigest, name) ??
        (await catalogue.pinned(definitionDigest, name))
      if (tool === undefined) throw unknownDigest(definitionDigest, name)
      const row = await executor.seal(
        {
          ...request,
          tool: tool.fullName,
          requestDigest: requestDigestOf(request),
          effect: tool.effect,
        },
        context.signal,
      )
      return { execution: toExecution(row), sealed: row.state === "failed" && row.attempts === 0 }
    },

    async getExecution({ workspaceId, tool, idempotencyKey }, context) {
      const row = await database.tenant(
        workspaceId,
        (tx) => findExecution(tx, { workspaceId, tool, idempotencyKey }),
        { signal: context.signal, name: "get execution" },
      )
      if (row === undefined) throw notFound("execution", idempotencyKey)
      return { execution: toExecution(row) }
    },
  } satisfies ServiceImpl<typeof ExecutionService>
}

/** The token was signed for this very call, and its digest is that of the arguments that came. */
function requireNamedCall(request: ExecuteRequest, context: HandlerContext): void {
  const { call } = callerOf(context)
  if (call === undefined) throw mismatch("identity")
  if (call.runId !== request.runId) throw mismatch("run_id")
  if (call.stepIndex !== request.stepIndex) throw mismatch("step_index")
  if (call.digest !== request.argumentsDigest) throw mismatch("arguments_digest")
  if (digestOfStruct(request.arguments ?? {}) !== request.argumentsDigest) {
    throw mismatch("arguments")
  }
}

/** Everything that makes two requests under one key the same request. */
function requestDigestOf(request: ExecuteRequest | SealExecutionRequest): string {
  return digestOf({
    run: request.runId.toLowerCase(),
    step: request.stepIndex,
    definition: request.definitionDigest,
    arguments: request.argumentsDigest,
  })
}

/** The provider is called for the same actor; the claims of this call are for this service alone. */
function subjectOf(context: HandlerContext): Subject {
  const { kind, workspaceId, actorId, role } = callerOf(context)
  return { kind, workspaceId, actorId, role }
}

/** Until when the provider may take: asking about the call and recording it need a rest of the time. */
function deadlineOf(context: HandlerContext): number {
  const remainingMs = context.timeoutMs() ?? defaultTimeoutMs
  return performance.now() + Math.max(1, remainingMs - Math.min(maxReserveMs, remainingMs / 4))
}

function describeSpan(tool: PinnedTool, workspaceId: string): void {
  trace.getActiveSpan()?.setAttributes({
    "gen_ai.tool.name": tool.fullName,
    "runwarden.tool.version": tool.version,
    "runwarden.tool.riskClass": tool.riskClass,
    "runwarden.workspace.id": workspaceId,
  })
}

function unknownDigest(digest: string, tool?: string): RunwardenError {
  return new RunwardenError("UNKNOWN_TOOL", {
    field: "definition_digest",
    tool: tool ?? digest,
  })
}

function mismatch(field: string): RunwardenError {
  return new RunwardenError("DIGEST_MISMATCH", { field })
}
