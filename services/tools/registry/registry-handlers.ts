import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  ActivateToolVersionResponseSchema,
  RegistryService,
  RollBackToolResponseSchema,
} from "../../../gen/runwarden/tools/v1/registry_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { notFound } from "../../../mesh/errors.ts"
import { callerOf } from "../../../mesh/identity.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { answerOnce } from "../../../mesh/request-id.ts"
import { deploymentId, type ToolKey } from "./activation-store.ts"
import type { ChoiceBook } from "./choices.ts"
import type { Meanings } from "./meanings.ts"
import { toTool } from "./tool-message.ts"
import { activate, rollBack, toVersion } from "./tool-review.ts"
import { findCompared, listToolsInUse, listVersions, type SeenTool } from "./tool-store.ts"

export interface RegistryHandlerDeps {
  readonly database: Database
  readonly meanings: Meanings
  readonly choices: ChoiceBook
  readonly providerNames: readonly string[]
}

const pageSizes = { default: 50, max: 200 }
const versionPageSizes = { default: 20, max: 100 }

export function registryHandlers(deps: RegistryHandlerDeps) {
  const { database, meanings, choices, providerNames } = deps

  /** A tool of a provider that is configured, or the workspace's own, by its full name. */
  async function toolOf(workspaceId: string, fullName: string): Promise<ToolKey> {
    const [provider = "", name = ""] = fullName.split("/", 2)
    if (providerNames.includes(provider)) return { provider_id: deploymentId, provider, name }
    const own = (await choices.of(workspaceId)).providers.get(provider)
    if (own === undefined) throw notFound("tool", fullName)
    return { provider_id: own.providerId, provider, name }
  }

  return {
    async listTools(request, { signal }) {
      const { workspaceId, provider, query } = request
      const filter = { provider, query }
      const page = readPage(request, filter, pageSizes)
      const rows = await database.tenant(
        workspaceId,
        (tx) => listToolsInUse(tx, workspaceId, providerNames, filter, page),
        { signal, name: "list tools" },
      )
      const shown = rows.slice(0, page.limit)
      const last = shown.at(-1)
      const hasMore = rows.length > shown.length && last !== undefined
      return {
        tools: shown.map(toTool),
        nextPageToken: hasMore ? nextPage(filter, [last.provider, last.name]) : "",
      }
    },

    async getTool({ workspaceId, name, version }, { signal }) {
      const found = await meanings.resolve(workspaceId, name, version, signal)
      if (found === undefined) throw notFound("tool", version === "" ? name : `${name}@${version}`)
      return { tool: { ...toTool(found.row), active: found.isInUse } }
    },

    async listToolVersions(request, { signal }) {
      const { workspaceId, name } = request
      const found = name.includes("/")
        ? undefined
        : await meanings.resolve(workspaceId, name, "", signal)
      const tool = await toolOf(workspaceId, found?.tool.fullName ?? name)
      const filters = { list: "tool_versions", ...tool }
      const { limit, after } = readPage(request, filters, versionPageSizes)
      const before = after === undefined ? undefined : Number(after[0])
      const chosen = await choices.of(workspaceId)
      const { rows, base } = await database.tenant(
        workspaceId,
        async (tx) => ({
          rows: await listVersions(tx, tool, { before, limit: limit + 1 }),
          base: await findCompared(tx, tool, {
            version: chosen.versions.get(`${tool.provider}/${tool.name}`) ?? "",
            reviewed: [...chosen.reviewed],
          }),
        }),
        { signal, name: "list tool versions" },
      )
      if (base === undefined) throw notFound("tool", name)
      const page = rows.slice(0, limit)
      return {
        versions: page.map((row) => toVersion(row, chosen, base)),
        nextPageToken: rows.length > limit ? nextPage(filters, [lastSeen(page)]) : "",
      }
    },

    async activateToolVersion(request, context) {
      const { workspaceId, name, version, definitionDigest: digest } = request
      const decider = { workspaceId, actorId: callerOf(context).actorId }
      const wanted = { ...(await toolOf(workspaceId, name)), version, digest }
      const { activateToolVersion } = RegistryService.method
      const { signal } = context
      const response = await answerOnce(
        database,
        activateToolVersion,
        request,
        async (tx) =>
          create(ActivateToolVersionResponseSchema, {
            activation: await activate(tx, decider, wanted),
          }),
        { signal },
      )
      choices.forget(workspaceId)
      return response
    },

    async rollBackTool(request, context) {
      const { workspaceId, name, etag } = request
      const decider = { workspaceId, actorId: callerOf(context).actorId }
      const tool = await toolOf(workspaceId, name)
      const { rollBackTool } = RegistryService.method
      const { signal } = context
      const response = await answerOnce(
        database,
        rollBackTool,
        request,
        async (tx) =>
          create(RollBackToolResponseSchema, {
            activation: await rollBack(tx, decider, tool, etag),
          }),
        { signal },
      )
      choices.forget(workspaceId)
      return response
    },
  } satisfies ServiceImpl<typeof RegistryService>
}

function lastSeen(page: readonly SeenTool[]): string {
  return String(page.at(-1)?.seen_order)
}
