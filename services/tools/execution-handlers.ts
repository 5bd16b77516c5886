import { create } from "@bufbuild/protobuf"
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect"
import { trace } from "@opentelemetry/api"
import {
  type ExecuteRequest,
  type ExecutionService,
  type SealExecutionRequest,
  ValidateArgumentsResponseSchema,
} from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { digestOf, digestOfStruct } from "../../mesh/canonical.ts"
import type { Database } from "../../mesh/database.ts"
import { defaultTimeoutMs } from "../../mesh/deadline.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf, type Subject } from "../../mesh/identity.ts"
import { requireValidArguments } from "./arguments.ts"
import { findExecution } from "./execution-store.ts"
import type { Executor } from "./executor.ts"
import type { ProviderClient, Registry } from "./registry.ts"
import type { SchemaChecker } from "./schema-checker.ts"
import { fullNameOf, toExecution, toTool } from "./tool-message.ts"
import type { ToolRow } from "./tool-store.ts"

export interface ExecutionHandlerDeps {
  readonly database: Database
  readonly registry: Registry
  readonly executor: Executor
  readonly checker: SchemaChecker
  readonly providers: ReadonlyMap<string, ProviderClient>
}

const maxReserveMs = 500

export function executionHandlers(deps: ExecutionHandlerDeps) {
  const { database, registry, executor, checker, providers } = deps
  return {
    async resolveTool({ name, version }, context) {
      const row = await registry.resolve(name, version, context.signal)
      // A plan is checked when it is stored: a version that nobody offers cannot be run any more.
      if (row?.offered !== true) {
        throw new RunwardenError("UNKNOWN_TOOL", {
          tool: version === "" ? name : `${name}@${version}`,
        })
      }
      return { tool: toTool(row) }
    },

    async validateArguments({ definitionDigest, arguments: args }) {
      const tool = await registry.pinned(definitionDigest)
      if (tool === undefined) throw unknownDigest(definitionDigest)
      requireValidArguments(checker, tool, args ?? {})
      return create(ValidateArgumentsResponseSchema)
    },

    async execute(request, context) {
      const args = request.arguments ?? {}
      requireNamedCall(request, context)
      const tool = await registry.pinned(request.definitionDigest, request.tool)
      if (tool === undefined) throw unknownDigest(request.definitionDigest, request.tool)
      describeSpan(tool, request.workspaceId)
      requireValidArguments(checker, tool, args)
      const client = providers.get(tool.provider)
      if (client === undefined) {
        throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: tool.provider })
      }
      const { row, isReplayed } = await executor.execute({
        ...request,
        arguments: args,
        client,
        tool,
        fullName: fullNameOf(tool),
        requestDigest: requestDigestOf(request),
        subject: subjectOf(context),
        deadline: deadlineOf(context),
        callerSignal: context.signal,
      })
      return { execution: toExecution(row), replayed: isReplayed }
    },

    async sealExecution(request, context) {
      const tool = await registry.pinned(request.definitionDigest, request.tool)
      if (tool === undefined) throw unknownDigest(request.definitionDigest, request.tool)
      const row = await executor.seal(
        {
          ...request,
          tool: fullNameOf(tool),
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

function describeSpan(tool: ToolRow, workspaceId: string): void {
  trace.getActiveSpan()?.setAttributes({
    "gen_ai.tool.name": fullNameOf(tool),
    "runwarden.tool.version": tool.version,
    "runwarden.tool.risk_class": tool.risk_class,
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
