/**
 * An MCP server as a provider of tools: it answers what a provider's own service would.
 *
 * 1. No token of ours or of the caller's leaves: what goes out is the arguments, the trace context
 *    and the key of the call.
 * 2. MCP has no question for the outcome of a call: what was lost stays unknown.
 * 3. What failed before the call was sent says so; everything else may have taken effect.
 */
import { create } from "@bufbuild/protobuf"
import type { CallOptions } from "@connectrpc/connect"
import type { PriorDiscovery, Transport } from "@modelcontextprotocol/client"
import { SpanKind } from "@opentelemetry/api"
import {
  ExecuteToolRequestSchema,
  GetOutcomeResponseSchema,
  ListToolsResponseSchema,
  Outcome,
} from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { callSignal } from "../../../mesh/call-signal.ts"
import { defaultTimeoutMs } from "../../../mesh/deadline.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { neverSent } from "../../../mesh/never-sent.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { injectTrace, inSpan } from "../../../mesh/tracing.ts"
import type { ProviderClient } from "../registry/registry.ts"
import { statusOf } from "./answer.ts"
import type { ToolSetting } from "./definition.ts"
import { type CallLimits, openSession } from "./session.ts"
import { createMcpSessions } from "./sessions.ts"

export interface McpProviderOptions {
  readonly name: string
  readonly runtime: Runtime
  readonly settings: ReadonlyMap<string, ToolSetting>
  /** Whose session lists the tools; one of its own where nobody is named. */
  readonly listedFor?: string
  /** Conversations at a time, each of one workspace. */
  readonly maxSessions: number
  /** How old a list of tools may be when one is called by it. */
  readonly maxListAgeMs: number
  /** Makes what carries one conversation. */
  transport(): Transport
  readonly onToolsChanged: () => void
}

export type McpProvider = ProviderClient & AsyncDisposable

/** The session that lists the tools is no workspace's. */
const registry = ""
const connectTimeoutMs = 15_000
const keyMember = "runwarden.dev/idempotency-key"

export function createMcpProvider(options: McpProviderOptions): McpProvider {
  const { name, runtime, listedFor = registry } = options
  let prior: PriorDiscovery | undefined
  const sessions = createMcpSessions({
    runtime,
    server: name,
    maxSessions: options.maxSessions,
    // Others may wait for the same session when the one who asked first has gone.
    async open() {
      const limits = { signal: AbortSignal.timeout(connectTimeoutMs), timeoutMs: connectTimeoutMs }
      const known = prior
      prior = undefined // until a session has opened by it
      const session = await openSession(
        { ...options, transport: options.transport(), prior: known },
        limits,
      )
      prior = session.discovery
      return session
    },
  })
  const unavailable = (error: unknown) =>
    new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: name }, { cause: error })

  return {
    async listTools(_request, callOptions) {
      try {
        const tools = await within(callOptions, (limits) =>
          sessions.use(listedFor, (session) => session.list(limits)),
        )
        return create(ListToolsResponseSchema, { tools: [...tools] })
      } catch (error) {
        throw unavailable(error)
      }
    },

    executeTool(request, callOptions) {
      const { workspaceId, idempotencyKey, tool, version, ...rest } = create(
        ExecuteToolRequestSchema,
        request,
      )
      const attributes = { "mcp.method.name": "tools/call", "gen_ai.tool.name": tool }
      const start = { kind: SpanKind.CLIENT, attributes }
      return inSpan(runtime.tracer, `tools/call ${tool}`, start, async () => {
        let isSent = false
        const call = {
          tool,
          version,
          arguments: rest.arguments ?? {},
          meta: { ...traceMembers(), [keyMember]: idempotencyKey },
          onSend: () => {
            isSent = true
          },
        }
        try {
          return await within(callOptions, (limits) =>
            sessions.use(workspaceId, (session) => session.call(call, limits)),
          )
        } catch (error) {
          if (isSent) throw statusOf(error)
          throw reasonOf(error) === "UNKNOWN_TOOL" ? error : neverSent(unavailable(error)) // (3)
        }
      })
    },

    async getOutcome() {
      return create(GetOutcomeResponseSchema, { outcome: Outcome.UNKNOWN }) // (2)
    },

    [Symbol.asyncDispose]: () => sessions[Symbol.asyncDispose](),
  }
}

/** Runs what a call does until its caller gives up, or its time is over. */
async function within<T>(
  options: CallOptions | undefined,
  work: (limits: CallLimits) => Promise<T>,
): Promise<T> {
  const timeoutMs = options?.timeoutMs ?? defaultTimeoutMs
  const life = callSignal(options?.signal, timeoutMs)
  try {
    return await life.race(work({ signal: life.signal, timeoutMs }))
  } finally {
    life.release()
  }
}

/** The active trace context under the names that MCP reserves for it. */
function traceMembers(): Readonly<Record<string, string>> {
  const headers = new Headers()
  injectTrace(headers)
  return Object.fromEntries(headers)
}
