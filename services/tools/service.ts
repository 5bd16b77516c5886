/**
 * The tools service: what runs may do, and the ledger of what they did.
 *
 * registry/   what is offered, and what a name means
 *   registry.ts         asks the providers for their tools, by loops of its own
 *   readings.ts, definition.ts   what a definition may be; sync-plan.ts: what an answer changes
 *   meanings.ts         what a name means in a workspace; plan-resolution.ts: what whole plans mean
 *   choices.ts          what workspaces have chosen, remembered; tool-review.ts: how they choose;
 *                       definition-change.ts: what has changed; activation-store.ts: SQL
 *   catalogue.ts        what names and digests mean to the deployment, remembered; tool-store.ts: SQL
 *   pinned-tool.ts      one version, read and compiled; retry-policy.ts: how it is repeated
 * providers/  providers that workspaces add for themselves
 *   own-providers.ts    all of it in one piece; provider-store.ts: SQL, and when each is due
 *   refresher.ts        asks them; own-tool-store.ts, own-catalogue.ts: what they offer, by workspace
 *   own-clients.ts      speaks with them; opening.ts: by what; foreign-grpc.ts: over gRPC
 *   connection.ts       where they may be, and what they may be shown
 *   keyring.ts          how credentials are encrypted; rotation.ts: and encrypted anew;
 *                       credential-store.ts: SQL; secret.ts, redaction.ts: who does not see them
 * schema/     JSON Schemas; checker.ts has a map of its siblings; foreign-schema.ts: what is nearly one
 * mcp/        MCP servers as providers
 *   server.ts           one of them; servers.ts: those of the deployment
 *   provider.ts         a provider's contract in terms of MCP; definition.ts, answer.ts: its words
 *   sessions.ts         conversations by workspace; session.ts: one; stdio.ts, http.ts: what carries it
 * ledger/     each call once
 *   executor.ts         records, sends, records
 *   ledger.ts           what may be done under one key (pure); answer.ts: what follows an answer
 *   provider-call.ts    how an answer is read
 *   ledger-writer.ts    claims and outcomes of many calls at once; execution-group-store.ts: their SQL
 *   admission.ts        what to do where a key is taken; execution-store.ts: SQL for one call
 *   recording.ts        how a sending ends
 *   running-calls.ts    leases of calls that take longer, and what stops them
 *   ledger-list-store.ts  SQL of the list of all that was sent
 * *-handlers.ts, in each room, one per proto service; tool-message.ts: rows to messages
 */
import { join } from "node:path"
import { createClient } from "@connectrpc/connect"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { LedgerService } from "../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import { ProviderService } from "../../gen/runwarden/tools/v1/provider_service_pb.ts"
import { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { type ProviderTarget, readConfig, type ToolsConfig } from "./config.ts"
import { executionHandlers } from "./ledger/execution-handlers.ts"
import { createExecutor } from "./ledger/executor.ts"
import { ledgerHandlers } from "./ledger/ledger-handlers.ts"
import { createLedgerWriter } from "./ledger/ledger-writer.ts"
import { createRunningCalls } from "./ledger/running-calls.ts"
import { mcpProviderOf } from "./mcp/server.ts"
import { createOwnProviders } from "./providers/own-providers.ts"
import { providerHandlers } from "./providers/provider-handlers.ts"
import { createCatalogue } from "./registry/catalogue.ts"
import { createChoiceBook } from "./registry/choices.ts"
import { createMeanings } from "./registry/meanings.ts"
import { createRegistry, type ProviderClient } from "./registry/registry.ts"
import { registryHandlers } from "./registry/registry-handlers.ts"

export interface ToolsDeps {
  readonly runtime: Runtime
  /** The client of a configured provider. */
  provider(target: ProviderTarget): ProviderClient
}

export const toolsModule: ServiceModule<ToolsConfig> = {
  name: "tools",
  readConfig,
  create: (config, runtime, peers) =>
    createTools(config, {
      runtime,
      provider: ({ name, address }) =>
        createClient(ToolProviderService, peers.transportTo(address, name)),
    }),
}

/** Creates the tools service. Disposal ends the refreshes and waits for calls that are running. */
export function createTools(config: ToolsConfig, deps: ToolsDeps): Service {
  const stack = new AsyncDisposableStack()
  const { runtime } = deps
  const database = stack.use(
    openDatabase(config.database, { runtime, migrations: join(import.meta.dirname, "migrations") }),
  )
  const { refreshMs, execution } = config
  const strangers = new Map(
    config.mcpServers.map((server) => {
      const onToolsChanged = () => registry.refresh(server.name)
      return [server.name, stack.use(mcpProviderOf(server, { config, runtime, onToolsChanged }))]
    }),
  )
  const providers = new Map<string, ProviderClient>([
    ...config.providers.map((target) => [target.name, deps.provider(target)] as const),
    ...strangers,
  ])
  const providerNames = [...providers.keys()]
  const catalogue = createCatalogue(database, providerNames)
  const configured = new Set(providerNames)
  const registry = stack.use(
    createRegistry({
      database,
      runtime,
      catalogue,
      providers,
      strangers: new Set(strangers.keys()),
      refreshMs,
    }),
  )
  const choices = stack.use(createChoiceBook(database, configured))
  const own = stack.use(
    createOwnProviders({
      database,
      runtime,
      config: config.workspaceProviders,
      choices,
      refreshMs,
      isConfigured: (name) => configured.has(name),
    }),
  )
  const meanings = createMeanings(registry, choices, own.catalogue)
  const { leaseMs } = execution
  const writer = stack.use(createLedgerWriter({ database, runtime, leaseMs }))
  const running = stack.use(createRunningCalls({ database, runtime, leaseMs }))
  const executor = stack.use(
    createExecutor({ database, runtime, writer, running, config: execution }),
  )
  return {
    routes: [
      route(RegistryService, registryHandlers({ database, meanings, choices, providerNames })),
      route(
        ProviderService,
        providerHandlers({ database, config: config.workspaceProviders, own, providerNames }),
      ),
      route(
        ExecutionService,
        executionHandlers({ database, meanings, catalogue, executor, providers, own }),
      ),
      route(LedgerService, ledgerHandlers({ database })),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      await registry.start(signal)
      own.start()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
