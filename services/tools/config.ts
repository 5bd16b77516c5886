import { z } from "zod"
import { ConfigError, type Environment, milliseconds, readAll, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"
import type { ExecutorConfig } from "./ledger/executor.ts"
import { type McpServer, type ProviderCommand, readMcpServers } from "./mcp/servers.ts"
import { type Keyring, keyringSetting } from "./providers/keyring.ts"

/** A service that offers tools. Its name is the first part of their names and its token's audience. */
export interface ProviderTarget {
  readonly name: string
  readonly address: string
}

export interface ToolsConfig {
  readonly database: DatabaseConfig
  readonly providers: readonly ProviderTarget[]
  readonly mcpServers: readonly McpServer[]
  /** How often each provider is asked for its tools. */
  readonly refreshMs: number
  readonly execution: ExecutorConfig
  readonly workspaceProviders: WorkspaceProvidersConfig
}

/** What workspaces may add for themselves. */
export interface WorkspaceProvidersConfig {
  /** What their credentials are encrypted with; undefined where none may be stored. */
  readonly keyring: Keyring | undefined
  /** Origins that may be on this machine, in a private network, on any port, or in the clear. */
  readonly origins: readonly string[]
  readonly commands: ReadonlyMap<string, ProviderCommand>
  readonly maxPerWorkspace: number
}

const providerPattern = /^([a-z][a-z0-9-]{0,62})=(\S+:\d{1,5})$/

const providerList = z.string().transform((text, context) => {
  const targets: ProviderTarget[] = []
  for (const entry of text.split(",").map((one) => one.trim())) {
    const [, name, address] = providerPattern.exec(entry) ?? []
    if (name === undefined || address === undefined) {
      context.addIssue(`"${entry}" must be name=host:port, with a name of a-z, 0-9 and -`)
    } else if (targets.some((target) => target.name === name)) {
      context.addIssue(`${name} is named twice`)
    } else {
      targets.push({ name, address })
    }
  }
  return targets
})

const originList = z.string().transform((text, context) =>
  text.split(",").map((entry) => {
    const origin = entry.trim()
    const url = URL.canParse(origin) ? new URL(origin) : undefined
    if (url === undefined || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/`) {
      context.addIssue(`"${origin}" must be an origin such as http://127.0.0.1:7201`)
    }
    return url?.origin ?? ""
  }),
)

const shape = {
  TOOLS_PROVIDERS: providerList.default(() => [
    { name: "projects", address: "127.0.0.1:7106" },
    { name: "retrieval", address: "127.0.0.1:7104" },
  ]),
  TOOLS_MCP_SERVERS: z.string().optional(),
  TOOLS_CREDENTIAL_KEYS: keyringSetting.optional(),
  TOOLS_PROVIDER_ORIGINS: originList.default(() => []),
  TOOLS_MAX_WORKSPACE_PROVIDERS: z.coerce.number().int().min(0).max(1_000).default(20),
  TOOLS_REFRESH_MS: milliseconds.default(30_000),
  TOOLS_MAX_RESULT_BYTES: z.coerce.number().int().min(1_024).max(1_048_576).default(262_144),
  TOOLS_LEASE_MS: milliseconds.min(1_000).max(60_000).default(10_000),
  TOOLS_PROBE_TIMEOUT_MS: milliseconds.default(1_000),
}

/** Reads `TOOLS_*` and the file that they name. Throws one error that lists everything that is wrong. */
export function readConfig(env: Environment): ToolsConfig {
  const [database, settings] = readAll(
    () => readDatabaseConfig("tools", env),
    () => readEnv(shape, env),
  )
  const providers = settings.TOOLS_PROVIDERS
  const path = settings.TOOLS_MCP_SERVERS
  const file = path === undefined ? undefined : readMcpServers(path, env)
  const mcpServers = file?.servers ?? []
  const twice = mcpServers.filter(({ name }) => providers.some((target) => target.name === name))
  if (twice.length > 0) {
    throw new ConfigError(twice.map(({ name }) => `${name} is in TOOLS_PROVIDERS and in ${path}`))
  }
  return {
    database,
    providers,
    mcpServers,
    refreshMs: settings.TOOLS_REFRESH_MS,
    execution: {
      leaseMs: settings.TOOLS_LEASE_MS,
      probeTimeoutMs: settings.TOOLS_PROBE_TIMEOUT_MS,
      maxResultBytes: settings.TOOLS_MAX_RESULT_BYTES,
    },
    workspaceProviders: {
      keyring: settings.TOOLS_CREDENTIAL_KEYS,
      origins: settings.TOOLS_PROVIDER_ORIGINS,
      commands: file?.commands ?? new Map(),
      maxPerWorkspace: settings.TOOLS_MAX_WORKSPACE_PROVIDERS,
    },
  }
}
