/** What speaks with a workspace's own provider, by the kind of its connection. */
import type { Transport } from "@modelcontextprotocol/client"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { ToolSetting } from "../mcp/definition.ts"
import { httpTransport } from "../mcp/http.ts"
import { createMcpProvider } from "../mcp/provider.ts"
import { maxMessageBytes } from "../mcp/server.ts"
import type { ProviderCommand } from "../mcp/servers.ts"
import { StdioTransport } from "../mcp/stdio.ts"
import type { ProviderClient } from "../registry/registry.ts"
import { type ConnectionRules, grpcUrl } from "./connection.ts"
import { createForeignGrpcProvider } from "./foreign-grpc.ts"
import type { OpenedProvider } from "./own-clients.ts"
import type { ProviderKey, StoredSetting } from "./provider-store.ts"
import type { Secret } from "./secret.ts"

export interface OpeningDeps {
  readonly runtime: Runtime
  readonly rules: ConnectionRules
  /** How old a list of tools may be when one is called by it. */
  readonly refreshMs: number
  readonly onToolsChanged: (key: ProviderKey) => void
}

/** Opens providers; it counts the processes of each command of the deployment. */
export function createOpening(
  deps: OpeningDeps,
): (provider: OpenedProvider) => ProviderClient & AsyncDisposable {
  const { runtime, rules, refreshMs } = deps
  const processes = new Map<string, number>()

  function transportOf({ row, credentials }: OpenedProvider): Transport {
    const { connection, name } = row
    switch (connection.kind) {
      case "mcp_http":
        return httpTransport({
          url: new URL(connection.url),
          headers: revealed(credentials),
          maxMessageBytes,
          configured: rules.origins,
        })
      case "mcp_stdio": {
        const command = rules.commands.get(connection.command)
        if (command === undefined)
          throw new Error(`the command ${connection.command} is not allowed`)
        return counted(processes, connection.command, command, credentials)
      }
      default:
        throw new Error(`${name} does not speak MCP`)
    }
  }

  return (provider) => {
    const { key, row, credentials } = provider
    const { connection, name } = row
    const settings = toSettings(row.settings)
    if (connection.kind !== "grpc") {
      return createMcpProvider({
        name,
        runtime,
        settings,
        listedFor: key.workspaceId,
        maxSessions: 1,
        maxListAgeMs: refreshMs,
        transport: () => transportOf(provider),
        onToolsChanged: () => deps.onToolsChanged(key),
      })
    }
    return createForeignGrpcProvider({
      url: new URL(grpcUrl(connection)),
      caller: runtime,
      workspaceId: key.workspaceId,
      name,
      settings,
      egress: { configured: rules.origins },
      headers: () => Object.entries(revealed(credentials)),
    })
  }
}

/** A process of a command, unless there are as many as there may be. */
function counted(
  processes: Map<string, number>,
  name: string,
  { start, variables, maxProcesses }: ProviderCommand,
  credentials: ReadonlyMap<string, Secret>,
): Transport {
  // What the deployment allows now counts, not what it allowed when the variable was set.
  const allowed = [...credentials].filter(([variable]) => variables.includes(variable))
  const env = { ...start.env, ...revealed(new Map(allowed)) }
  const transport = new StdioTransport(
    { ...start, env },
    // What a stranger's process writes may be what it was shown.
    { maxLineBytes: maxMessageBytes, onErrorLine: () => {} },
  )
  const begin = transport.start.bind(transport)
  const close = transport.close.bind(transport)
  let isCounted = false
  transport.start = async () => {
    const running = processes.get(name) ?? 0
    if (running >= maxProcesses) throw new Error(`${maxProcesses} processes of ${name} are running`)
    processes.set(name, running + 1)
    isCounted = true
    await begin()
  }
  transport.close = async () => {
    await close()
    if (isCounted) processes.set(name, (processes.get(name) ?? 1) - 1)
    isCounted = false
  }
  return transport
}

function revealed(credentials: ReadonlyMap<string, Secret>): Readonly<Record<string, string>> {
  return Object.fromEntries([...credentials].map(([name, secret]) => [name, secret.reveal()]))
}

export function toSettings(
  stored: Readonly<Record<string, StoredSetting>>,
): ReadonlyMap<string, ToolSetting> {
  return new Map(
    Object.entries(stored).map(([tool, { riskClass, effect }]) => [
      tool,
      { riskClass: riskClass && riskClasses[riskClass], effect: effect && effects[effect] },
    ]),
  )
}

const riskClasses = { low: RiskClass.LOW, medium: RiskClass.MEDIUM, high: RiskClass.HIGH } as const
const effects = { read: Effect.READ, keyed: Effect.KEYED, unsafe: Effect.UNSAFE } as const
