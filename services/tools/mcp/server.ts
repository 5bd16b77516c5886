/** An MCP server of the deployment as a provider: what carries its conversations, and its limits. */
import type { Transport } from "@modelcontextprotocol/client"
import type { Runtime } from "../../../mesh/service.ts"
import type { ToolsConfig } from "../config.ts"
import { httpTransport } from "./http.ts"
import { createMcpProvider, type McpProvider } from "./provider.ts"
import type { McpServer } from "./servers.ts"
import { StdioTransport } from "./stdio.ts"

export interface McpServerDeps {
  readonly config: Pick<ToolsConfig, "refreshMs">
  readonly runtime: Runtime
  readonly onToolsChanged: () => void
}

/** The longest message that is read: a list of many tools, or a large result with all its escapes. */
export const maxMessageBytes = 4 * 1_024 * 1_024

export function mcpProviderOf(
  server: McpServer,
  { config, runtime, onToolsChanged }: McpServerDeps,
): McpProvider {
  const { name, settings, maxSessions } = server
  return createMcpProvider({
    name,
    runtime,
    settings,
    maxSessions,
    maxListAgeMs: config.refreshMs,
    transport: () => transportOf(server, runtime),
    onToolsChanged,
  })
}

function transportOf({ name, connection }: McpServer, { log }: Runtime): Transport {
  if (connection.kind === "http") {
    return httpTransport({ ...connection, maxMessageBytes, configured: [connection.url.origin] })
  }
  return new StdioTransport(connection, {
    maxLineBytes: maxMessageBytes,
    onErrorLine: (line) => log.debug({ provider: name, line }, "MCP server"),
  })
}
