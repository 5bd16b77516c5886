import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt"
import type {
  Credential,
  ProviderSchema,
  ToolSetting,
} from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import {
  CreateProviderResponseSchema,
  DeleteProviderResponseSchema,
  ProviderService,
  RefreshProviderResponseSchema,
  UpdateProviderResponseSchema,
} from "../../../gen/runwarden/tools/v1/provider_service_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { type Database, isUniqueViolation, type Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { serviceNames } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { looksOf } from "../../../mesh/look-alikes.ts"
import { answerOnce } from "../../../mesh/request-id.ts"
import type { Handlers } from "../../../mesh/service.ts"
import type { WorkspaceProvidersConfig } from "../config.ts"
import { providerStateOf, toProvider, toRefusedTools } from "../registry/tool-message.ts"
import { listProviderRows } from "../registry/tool-store.ts"
import { readConnection, readCredentials, toConnection } from "./connection.ts"
import { countKeys, deleteCredentials, putCredential, readKeyUses } from "./credential-store.ts"
import type { OwnProviders } from "./own-providers.ts"
import {
  countProviders,
  findProviderNamed,
  insertProvider,
  listOwnProviders,
  lockProviderNamed,
  type OwnProviderRow,
  type ProviderKey,
  pruneProviders,
  removeProvider,
  type StoredSetting,
  updateProvider,
} from "./provider-store.ts"

export interface ProviderHandlerDeps {
  readonly database: Database
  readonly config: WorkspaceProvidersConfig
  readonly own: OwnProviders
  /** Names of the deployment's providers. */
  readonly providerNames: readonly string[]
}

const maxCredentials = 20
const maxSettings = 200

export function providerHandlers({ database, config, own, providerNames }: ProviderHandlerDeps) {
  const { keyring } = config
  const taken = new Set([...providerNames, ...serviceNames, "runwarden"].map(looksOf))

  /** A request as it is recognised again: without its secrets. */
  function withoutValues(credentials: readonly Credential[]): Credential[] {
    return credentials.map((one) => ({ ...one, value: keyring?.fingerprint(one.value) ?? "" }))
  }

  function requireKeyring(provider: string, credentials: readonly unknown[]): void {
    if (credentials.length === 0 || keyring !== undefined) return
    const cause = "the tools service has no key to keep them: set TOOLS_CREDENTIAL_KEYS"
    throw new RunwardenError("CREDENTIALS_UNAVAILABLE", { provider, cause })
  }

  async function keep(tx: Tx, key: ProviderKey, credentials: ReadonlyMap<string, string>) {
    for (const [name, value] of credentials) {
      const sealed = keyring?.seal({ ...key, name }, value)
      if (sealed !== undefined) await putCredential(tx, key, { name, ...sealed })
    }
    await countKeys(tx, key)
  }

  async function messageOf(tx: Tx, workspaceId: string, name: string) {
    return toOwnProvider(await findOr404(tx, workspaceId, name))
  }

  return {
    async createProvider(request, { signal }) {
      const { workspaceId, name } = request
      const connection = readConnection(request.connection, config)
      const credentials = readCredentials(connection, request.credentials, config, "credentials")
      const settings = withSettings({}, request.toolSettings)
      requireKeyring(name, request.credentials)
      const key = { workspaceId, providerId: newId() }
      const looks = looksOf(name)
      const asked = { ...request, credentials: withoutValues(request.credentials) }
      const response = await answerOnce(
        database,
        ProviderService.method.createProvider,
        asked,
        async (tx) => {
          if (taken.has(looks)) throw nameTaken(name)
          await pruneProviders(tx, workspaceId)
          if ((await countProviders(tx, workspaceId)) >= config.maxPerWorkspace) {
            throw limitReached("providers of a workspace", config.maxPerWorkspace)
          }
          await insertProvider(tx, key, { name, looks, connection, settings })
          await keep(tx, key, credentials)
          const provider = await messageOf(tx, workspaceId, name)
          return create(CreateProviderResponseSchema, { provider })
        },
        { signal },
      ).catch((error: unknown) => {
        throw isUniqueViolation(error, "workspace_providers_looks_idx") ? nameTaken(name) : error
      })
      own.changed(key)
      return response
    },

    async getProvider({ workspaceId, provider }, { signal }) {
      const [row] = providerNames.includes(provider)
        ? await database.shared((tx) => listProviderRows(tx, [provider]), { signal })
        : []
      if (row !== undefined) return { provider: toProvider(row) }
      return database.tenant(
        workspaceId,
        async (tx) => ({ provider: await messageOf(tx, workspaceId, provider) }),
        { signal, name: "get provider" },
      )
    },

    async listProviders({ workspaceId }, { signal }) {
      return database.tenant(
        workspaceId,
        async (tx) => {
          const theirs = (await listProviderRows(tx, providerNames)).map(toProvider)
          const mine = (await listOwnProviders(tx, workspaceId)).map(toOwnProvider)
          const byName = (one: { name?: string }, other: { name?: string }) =>
            (one.name ?? "") < (other.name ?? "") ? -1 : 1
          return { providers: [...theirs, ...mine].sort(byName) }
        },
        { signal, name: "list providers" },
      )
    },

    async updateProvider(request, { signal }) {
      const { workspaceId, provider: name, etag } = request
      requireKeyring(name, request.setCredentials)
      let changed: ProviderKey | undefined
      const asked = { ...request, setCredentials: withoutValues(request.setCredentials) }
      const response = await answerOnce(
        database,
        ProviderService.method.updateProvider,
        asked,
        async (tx) => {
          const row = await lockOr404(tx, workspaceId, name)
          if (etag !== "" && etag !== String(row.revision)) {
            throw new RunwardenError("ETAG_MISMATCH", { resource: "provider", id: name })
          }
          const { connection } = row
          const set = readCredentials(connection, request.setCredentials, config, "set_credentials")
          const unset = request.removeCredentials.map((one) =>
            connection.kind === "mcp_stdio" ? one : one.toLowerCase(),
          )
          requireRoom(row, set, unset)
          const key = { workspaceId, providerId: row.provider_id }
          await deleteCredentials(tx, key, unset)
          await keep(tx, key, set)
          await updateProvider(tx, key, withSettings(row.settings, request.setToolSettings))
          changed = key
          const provider = await messageOf(tx, workspaceId, name)
          return create(UpdateProviderResponseSchema, { provider })
        },
        { signal },
      )
      if (changed !== undefined) own.changed(changed)
      return response
    },

    async deleteProvider(request, { signal }) {
      const { workspaceId, provider: name } = request
      let removed: ProviderKey | undefined
      const response = await answerOnce(
        database,
        ProviderService.method.deleteProvider,
        request,
        async (tx) => {
          const { provider_id: providerId } = await lockOr404(tx, workspaceId, name)
          removed = { workspaceId, providerId }
          await removeProvider(tx, removed)
          return create(DeleteProviderResponseSchema)
        },
        { signal },
      )
      if (removed !== undefined) own.changed(removed)
      return response
    },

    async refreshProvider(request, { signal }) {
      const { workspaceId, provider: name } = request
      const row = await database.tenant(
        workspaceId,
        (tx) => findProviderNamed(tx, workspaceId, name),
        { signal, name: "find provider" },
      )
      const key = row && { workspaceId, providerId: row.provider_id }
      const found = (key && (await own.refresh(key))) ?? []
      return answerOnce(
        database,
        ProviderService.method.refreshProvider,
        request,
        async (tx) =>
          create(RefreshProviderResponseSchema, {
            provider: await messageOf(tx, workspaceId, name),
            newVersions: found.map((version) => `${name}/${version}`),
          }),
        { signal },
      )
    },

    async listCredentialKeys(_request, { signal }) {
      const uses = await database.control([], readKeyUses, { signal, name: "list credential keys" })
      const counts = new Map(uses.map((use) => [use.key_id, use.credential_count]))
      const configured = keyring?.keyIds ?? []
      const keyIds = [...new Set([...configured, ...counts.keys()])]
      return {
        keys: keyIds.map((keyId) => ({
          keyId,
          configured: configured.includes(keyId),
          primary: keyId === keyring?.primaryId,
          credentialCount: BigInt(counts.get(keyId) ?? 0),
        })),
      }
    },
  } satisfies Handlers<typeof ProviderService>
}

async function findOr404(tx: Tx, workspaceId: string, name: string): Promise<OwnProviderRow> {
  const row = await findProviderNamed(tx, workspaceId, name)
  if (row === undefined) throw notFound("provider", name)
  return row
}

async function lockOr404(tx: Tx, workspaceId: string, name: string): Promise<OwnProviderRow> {
  const row = await lockProviderNamed(tx, workspaceId, name)
  if (row === undefined) throw notFound("provider", name)
  return row
}

function requireRoom(
  { credentials }: OwnProviderRow,
  set: ReadonlyMap<string, string>,
  unset: readonly string[],
): void {
  const kept = credentials.map(({ name }) => name).filter((name) => !unset.includes(name))
  if (new Set([...kept, ...set.keys()]).size <= maxCredentials) return
  throw limitReached("credentials of a provider", maxCredentials)
}

/** What was said of tools, with what is said now in its place. */
function withSettings(
  before: OwnProviderRow["settings"],
  said: Readonly<Record<string, ToolSetting>>,
): OwnProviderRow["settings"] {
  const settings = new Map(Object.entries(before))
  for (const [tool, { riskClass, effect }] of Object.entries(said)) {
    const setting: StoredSetting = { ...riskNames[riskClass], ...effectNames[effect] }
    if (Object.keys(setting).length === 0) settings.delete(tool)
    else settings.set(tool, setting)
  }
  if (settings.size > maxSettings) throw limitReached("tool settings of a provider", maxSettings)
  return Object.fromEntries(settings)
}

const riskNames: Readonly<Record<RiskClass, Pick<StoredSetting, "riskClass">>> = {
  [RiskClass.UNSPECIFIED]: {},
  [RiskClass.LOW]: { riskClass: "low" },
  [RiskClass.MEDIUM]: { riskClass: "medium" },
  [RiskClass.HIGH]: { riskClass: "high" },
}
const effectNames: Readonly<Record<Effect, Pick<StoredSetting, "effect">>> = {
  [Effect.UNSPECIFIED]: {},
  [Effect.READ]: { effect: "read" },
  [Effect.KEYED]: { effect: "keyed" },
  [Effect.UNSAFE]: { effect: "unsafe" },
}
const riskClasses = { low: RiskClass.LOW, medium: RiskClass.MEDIUM, high: RiskClass.HIGH } as const
const effects = { read: Effect.READ, keyed: Effect.KEYED, unsafe: Effect.UNSAFE } as const

function toOwnProvider(row: OwnProviderRow): MessageInitShape<typeof ProviderSchema> {
  const settings = Object.entries(row.settings).map(([tool, { riskClass, effect }]) => [
    tool,
    {
      riskClass: riskClass === undefined ? RiskClass.UNSPECIFIED : riskClasses[riskClass],
      effect: effect === undefined ? Effect.UNSPECIFIED : effects[effect],
    },
  ])
  return {
    name: row.name,
    state: providerStateOf(row),
    ...(row.attempt_time === null ? {} : { attemptTime: timestampFromDate(row.attempt_time) }),
    ...(row.refresh_time === null ? {} : { refreshTime: timestampFromDate(row.refresh_time) }),
    error: row.error ?? "",
    toolCount: row.tool_count,
    refusedTools: toRefusedTools(row.refused),
    providerId: row.provider_id,
    connection: toConnection(row.connection),
    credentials: row.credentials.map(({ name, setMs }) => ({
      name,
      setTime: timestampFromMs(setMs),
    })),
    toolSettings: Object.fromEntries(settings),
    createTime: timestampFromDate(row.create_time),
    updateTime: timestampFromDate(row.update_time),
    etag: String(row.revision),
  }
}

function nameTaken(name: string): RunwardenError {
  return new RunwardenError("ALREADY_EXISTS", { resource: "provider", id: name })
}

function limitReached(limit: string, maximum: number): RunwardenError {
  return new RunwardenError("LIMIT_EXCEEDED", { limit, maximum: String(maximum) })
}
