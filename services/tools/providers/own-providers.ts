/** All that looks after workspaces' own providers, in one piece: who asks them, and who calls them. */
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { WorkspaceProvidersConfig } from "../config.ts"
import type { ChoiceBook } from "../registry/choices.ts"
import type { PinnedTool } from "../registry/pinned-tool.ts"
import type { ProviderClient } from "../registry/registry.ts"
import { createOpening } from "./opening.ts"
import { createOwnCatalogue, type OwnCatalogue } from "./own-catalogue.ts"
import { createOwnClients } from "./own-clients.ts"
import type { ProviderKey } from "./provider-store.ts"
import { createRefresher } from "./refresher.ts"
import { createRotation } from "./rotation.ts"

export interface OwnProvidersDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly config: WorkspaceProvidersConfig
  readonly choices: ChoiceBook
  readonly refreshMs: number
  /** Whether the deployment has a provider of this name, which is then no workspace's. */
  isConfigured(provider: string): boolean
}

export interface OwnProviders extends AsyncDisposable {
  readonly catalogue: OwnCatalogue
  start(): void
  /** Whom a call of a workspace's tool goes to; one that refuses it where its provider is removed. */
  clientOf(workspaceId: string, tool: PinnedTool): Promise<ProviderClient>
  /** Asks now; the versions that were not known before, undefined where it failed. */
  refresh(key: ProviderKey): Promise<readonly string[] | undefined>
  /** A provider was added, changed or removed here: it counts at once. */
  changed(key: ProviderKey): void
}

export function createOwnProviders(deps: OwnProvidersDeps): OwnProviders {
  const { database, runtime, config, choices, refreshMs } = deps
  const stack = new AsyncDisposableStack()
  const catalogue = createOwnCatalogue(database)
  const open = createOpening({
    runtime,
    rules: config,
    refreshMs,
    onToolsChanged: (key) => void refresher.refresh(key),
  })
  const clients = stack.use(createOwnClients({ database, runtime, keyring: config.keyring, open }))
  const refresher = stack.use(createRefresher({ database, runtime, clients, catalogue, refreshMs }))
  const rotation = stack.use(createRotation({ database, runtime, keyring: config.keyring }))

  /** A provider as it is now; undefined where it is gone, or its name is the deployment's by now. */
  async function refOf(workspaceId: string, provider: string, providerId: string) {
    if (deps.isConfigured(provider)) return undefined
    const remembered = (await choices.of(workspaceId)).providers.get(provider)
    if (remembered?.providerId === providerId) return remembered
    // It may have been added at another replica since: nothing is refused by what is remembered.
    choices.forget(workspaceId)
    const now = (await choices.of(workspaceId)).providers.get(provider)
    return now?.providerId === providerId ? now : undefined
  }

  return {
    catalogue,
    start() {
      refresher.start()
      rotation.start()
    },
    async clientOf(workspaceId, { provider, definition }) {
      const ref = await refOf(workspaceId, provider, definition.providerId)
      if (ref === undefined) return removed(provider)
      const key = { workspaceId, providerId: ref.providerId }
      refresher.touch(key)
      return {
        listTools: (request, options) =>
          clients.use(key, ref.revision, (client) => client.listTools(request, options)),
        executeTool: (request, options) =>
          clients.use(key, ref.revision, (client) => client.executeTool(request, options)),
        getOutcome: (request, options) =>
          clients.use(key, ref.revision, (client) => client.getOutcome(request, options)),
      }
    },
    refresh: (key) => refresher.refresh(key),
    changed(key) {
      choices.forget(key.workspaceId)
      catalogue.forgetNames()
      clients.forget(key)
      refresher.poke()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** Nothing is sent to a provider that is not there, and nobody is left to ask for outcomes. */
function removed(provider: string): ProviderClient {
  const refuse = async () => {
    throw new RunwardenError("PROVIDER_REMOVED", { provider })
  }
  return { listTools: refuse, executeTool: refuse, getOutcome: refuse }
}
