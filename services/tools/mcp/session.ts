/**
 * One conversation with an MCP server.
 *
 * Owns: the connection, and what the server last said that it offers.
 * States: open → closed, for good.
 *
 * Invariants:
 * 1. A tool is called only as it was listed: one whose definition is not the asked version any more,
 *    by the newest list that this conversation has seen, is refused before anything is sent.
 * 2. A list is asked for again when the server says that it changed, and when it is older than it
 *    may be.
 * 3. The server asks for nothing: no sampling, no roots, no questions to people are offered to it.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import {
  Client,
  type Tool as McpTool,
  type PriorDiscovery,
  type Transport,
} from "@modelcontextprotocol/client"
import type { ToolDefinition } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import type { ExecuteToolResponse } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { toResponse } from "./answer.ts"
import { type ToolSetting, toDefinition } from "./definition.ts"

export interface SessionOptions {
  readonly transport: Transport
  readonly settings: ReadonlyMap<string, ToolSetting>
  /** How old a list may be when a tool is called by it. */
  readonly maxListAgeMs: number
  readonly onToolsChanged: () => void
  /** Which of the protocol's eras an earlier session found; undefined to find out. */
  readonly prior: PriorDiscovery | undefined
}

/** One call of a tool, as the version of it that was approved. */
export interface SessionCall {
  readonly tool: string
  readonly version: string
  readonly arguments: JsonObject
  /** What goes along beside the arguments: trace context and the key of the call. */
  readonly meta: Readonly<Record<string, string>>
  /** Is told right before it is sent: until then it cannot have taken effect. */
  readonly onSend: () => void
}

export interface CallLimits {
  readonly signal: AbortSignal
  readonly timeoutMs: number
}

export interface McpSession extends AsyncDisposable {
  readonly isClosed: boolean
  /** What the next session need not find out again. */
  readonly discovery: PriorDiscovery
  /** Asks what the server offers now. */
  list(limits: CallLimits): Promise<readonly ToolDefinition[]>
  /** Throws UNKNOWN_TOOL where the server does not offer exactly this, before anything is sent. */
  call(call: SessionCall, limits: CallLimits): Promise<ExecuteToolResponse>
}

interface Offered {
  readonly tool: McpTool
  readonly definition: ToolDefinition
}

const maxPages = 20
const probeTimeoutMs = 5_000
const self = { name: "runwarden", version: "0.1.0" }

/** Connects, and learns what the server offers. */
export async function openSession(
  options: SessionOptions,
  limits: CallLimits,
): Promise<McpSession> {
  const { transport, settings, maxListAgeMs, onToolsChanged, prior } = options
  let offered: ReadonlyMap<string, Offered> = new Map()
  let listedAt = Number.NEGATIVE_INFINITY
  let isClosed = false
  const client = new Client(self, {
    capabilities: {}, // (3)
    versionNegotiation: { mode: "auto", probe: { timeoutMs: probeTimeoutMs } },
    inputRequired: { autoFulfill: false },
    listMaxPages: maxPages,
    listChanged: {
      tools: {
        autoRefresh: false,
        onChanged() {
          listedAt = Number.NEGATIVE_INFINITY // (2)
          onToolsChanged()
        },
      },
    },
  })
  client.onclose = () => {
    isClosed = true
  }

  async function list(within: CallLimits): Promise<readonly ToolDefinition[]> {
    const askedAt = performance.now()
    const { tools } = await client.listTools(undefined, {
      ...requestOptions(within),
      cacheMode: "bypass",
    })
    const found = tools.map((tool) => ({
      tool,
      definition: toDefinition(tool, settings.get(tool.name)),
    }))
    offered = new Map(found.map((one) => [one.tool.name, one]))
    listedAt = askedAt
    return found.map(({ definition }) => definition)
  }

  try {
    const known = prior === undefined ? {} : { prior }
    await client.connect(transport, { ...requestOptions(limits), ...known })
    await list(limits)
  } catch (error) {
    await client.close()
    await transport.close()
    throw error
  }
  const discover = client.getDiscoverResult()
  return {
    discovery: discover === undefined ? { kind: "legacy" } : { kind: "modern", discover },
    get isClosed() {
      return isClosed
    },
    list,
    async call({ tool: name, version, arguments: args, meta, onSend }, within) {
      if (performance.now() - listedAt > maxListAgeMs) await list(within)
      const found = offered.get(name)
      if (found?.definition.version !== version) {
        throw new RunwardenError("UNKNOWN_TOOL", { tool: `${name}@${version}` }) // (1)
      }
      // What the server returns is held to its schema where every provider's answer is.
      const { outputSchema, ...toolDefinition } = found.tool
      onSend()
      const answer = await client.callTool(
        { name, arguments: args, _meta: { ...meta } },
        { ...requestOptions(within), toolDefinition },
      )
      return toResponse(answer, outputSchema !== undefined)
    },
    async [Symbol.asyncDispose]() {
      isClosed = true
      await client.close()
    },
  }
}

function requestOptions({ signal, timeoutMs }: CallLimits) {
  return { signal, timeout: timeoutMs, maxTotalTimeout: timeoutMs }
}
