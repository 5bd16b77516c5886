import { hash, randomUUID } from "node:crypto"
import { create, type JsonObject } from "@bufbuild/protobuf"
import type { HandlerContext } from "@connectrpc/connect"
import { trace } from "@opentelemetry/api"
import type { ExecuteRequest } from "../../../gen/runwarden/tools/v1/execute_pb.ts"
import type {
  ExecutionService,
  SealExecutionRequest,
} from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { ValidateArgumentsResponseSchema } from "../../../gen/runwarden/tools/v1/resolution_pb.ts"
import { digestOfStruct } from "../../../mesh/canonical.ts"
import type { Database } from "../../../mesh/database.ts"
import { defaultTimeoutMs } from "../../../mesh/deadline.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { callerOf, type Subject } from "../../../mesh/identity.ts"
import type { Handlers } from "../../../mesh/service.ts"
import type { OwnProviders } from "../providers/own-providers.ts"
import type { Catalogue } from "../registry/catalogue.ts"
import type { Meanings } from "../registry/meanings.ts"
import { type PinnedTool, requireValidArguments } from "../registry/pinned-tool.ts"
import { resolvePlan, resolveUsable } from "../registry/plan-resolution.ts"
import type { ProviderClient } from "../registry/registry.ts"
import { isSealed, toExecution, toFailedAttempt, toTool } from "../registry/tool-message.ts"
import { findExecution } from "./execution-store.ts"
import type { Executor } from "./executor.ts"

export interface ExecutionHandlerDeps {
  readonly database: Database
  readonly meanings: Meanings
  readonly catalogue: Catalogue
  readonly executor: Executor
  readonly providers: ReadonlyMap<string, ProviderClient>
  readonly own: Pick<OwnProviders, "catalogue" | "clientOf">
}

export function executionHandlers(deps: ExecutionHandlerDeps) {
  const { database, meanings, catalogue, executor, own } = deps
  return {
    async resolveTool({ workspaceId, ...wanted }, context) {
      const { row, isInUse } = await resolveUsable(meanings, workspaceId, wanted, context.signal)
      return { tool: { ...toTool(row), active: isInUse } }
    },

    resolvePlan(request, context) {
      return resolvePlan(meanings, request, context.signal)
    },

    async validateArguments({ workspaceId, definitionDigest, arguments: args }) {
      const tool =
        (await catalogue.pinned(definitionDigest)) ??
        (await own.catalogue.pinned(workspaceId, definitionDigest))
      if (tool === undefined) throw unknownDigest(definitionDigest)
      requireValidArguments(tool, args ?? {})
      return create(ValidateArgumentsResponseSchema)
    },

    async execute(request, context) {
      const args = request.arguments ?? {}
      requireNamedCall(request, args, context)
      const tool = await pinnedOf(deps, request)
      describeSpan(tool, request.workspaceId)
      requireValidArguments(tool, args)
      const { row, isReplayed, failure } = await executor.execute({
        ...callOf(await clientOf(deps, tool, request), tool, request, args, context),
        deadline: performance.now() + (context.timeoutMs() ?? defaultTimeoutMs),
        callerSignal: context.signal,
      })
      return {
        execution: toExecution(row),
        replayed: isReplayed,
        ...(failure === undefined ? {} : { failedAttempt: toFailedAttempt(failure, tool) }),
      }
    },

    async sealExecution(request, context) {
      const tool = await pinnedOf(deps, request)
      const client = await clientOf(deps, tool, request)
      const call = callOf(client, tool, request, {}, context)
      const row = await executor.seal(call, context.signal)
      return { execution: toExecution(row), sealed: isSealed(row) }
    },

    async cancelExecution(request, context) {
      return { stopping: await executor.cancel(request, context.signal) }
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
  } satisfies Handlers<typeof ExecutionService>
}

/** The tool that a call is pinned to: a workspace's own only where its provider is not the deployment's. */
async function pinnedOf(
  { catalogue, providers, own }: ExecutionHandlerDeps,
  { workspaceId, definitionDigest, tool: name }: ExecuteRequest | SealExecutionRequest,
): Promise<PinnedTool> {
  const known = catalogue.knownPinned(definitionDigest, name)
  if (known !== undefined) return known
  const isConfigured = providers.has(name.slice(0, Math.max(0, name.indexOf("/"))))
  const tool = isConfigured
    ? await catalogue.pinned(definitionDigest, name)
    : (own.catalogue.knownPinned(workspaceId, definitionDigest, name) ??
      (await own.catalogue.pinned(workspaceId, definitionDigest, name)) ??
      (await catalogue.pinned(definitionDigest, name)))
  if (tool === undefined) throw unknownDigest(definitionDigest, name)
  return tool
}

/** Whom a call goes to. */
async function clientOf(
  { providers, own }: ExecutionHandlerDeps,
  tool: PinnedTool,
  { workspaceId }: ExecuteRequest | SealExecutionRequest,
): Promise<ProviderClient> {
  if (tool.definition.providerId !== "") return own.clientOf(workspaceId, tool)
  const client = providers.get(tool.provider)
  if (client !== undefined) return client
  throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: tool.provider })
}

/** What is recorded of a call, and what is sent of it. */
function callOf(
  client: ProviderClient,
  tool: PinnedTool,
  request: ExecuteRequest | SealExecutionRequest,
  args: JsonObject,
  context: HandlerContext,
) {
  const { workspaceId, runId, stepIndex, idempotencyKey, definitionDigest, epoch } = request
  const intent = {
    workspaceId,
    tool: tool.fullName,
    idempotencyKey,
    runId,
    stepIndex,
    requestDigest: requestDigestOf(request),
    definitionDigest,
    effect: tool.effect,
    epoch,
    claimId: randomUUID(),
  }
  const sent = { client, tool, workspaceId, runId, idempotencyKey, arguments: args }
  return { intent, request: sent, subject: subjectOf(context) }
}

/** The token was signed for this very call, and its digest is that of the arguments that came. */
function requireNamedCall(
  request: ExecuteRequest,
  args: JsonObject,
  context: HandlerContext,
): void {
  const { call } = callerOf(context)
  if (call === undefined) throw mismatch("identity")
  if (call.runId !== request.runId) throw mismatch("run_id")
  if (call.stepIndex !== request.stepIndex) throw mismatch("step_index")
  if (call.digest !== request.argumentsDigest) throw mismatch("arguments_digest")
  if (digestOfStruct(args) !== request.argumentsDigest) throw mismatch("arguments")
}

/**
 * Everything that makes two requests under one key the same request, as the digest of its canonical
 * JSON: the members are hexadecimal digits and stand in the order of their names.
 */
function requestDigestOf(request: ExecuteRequest | SealExecutionRequest): string {
  const { argumentsDigest, definitionDigest, runId, stepIndex } = request
  const run = runId.toLowerCase()
  return hash(
    "sha256",
    `{"arguments":"${argumentsDigest}","definition":"${definitionDigest}","run":"${run}","step":${stepIndex}}`,
  )
}

/** The provider is called for the same actor; the claims of this call are for this service alone. */
function subjectOf(context: HandlerContext): Subject {
  const { kind, workspaceId, actorId, role } = callerOf(context)
  return { kind, workspaceId, actorId, role }
}

function describeSpan(tool: PinnedTool, workspaceId: string): void {
  const span = trace.getActiveSpan()
  if (span?.isRecording() !== true) return
  span.setAttributes({
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
