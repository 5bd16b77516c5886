import type { ServiceImpl } from "@connectrpc/connect"
import type { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound } from "../../mesh/errors.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import type { Registry } from "./registry.ts"
import { toProvider, toTool } from "./tool-message.ts"
import { listActiveTools, listProviderRows } from "./tool-store.ts"

export interface RegistryHandlerDeps {
  readonly database: Database
  readonly registry: Registry
  readonly providerNames: readonly string[]
}

const pageSizes = { default: 50, max: 200 }

export function registryHandlers(deps: RegistryHandlerDeps) {
  const { database, registry, providerNames } = deps
  return {
    async listTools(request, context) {
      const filter = { provider: request.provider, query: request.query }
      const page = readPage(request, filter, pageSizes)
      const rows = await database.shared((tx) => listActiveTools(tx, providerNames, filter, page), {
        signal: context.signal,
        name: "list tools",
      })
      const shown = rows.slice(0, page.limit)
      const last = shown.at(-1)
      const hasMore = rows.length > shown.length && last !== undefined
      return {
        tools: shown.map(toTool),
        nextPageToken: hasMore ? nextPage(filter, [last.provider, last.name]) : "",
      }
    },

    async getTool({ name, version }, context) {
      const found = await registry.resolve(name, version, context.signal)
      if (found === undefined) throw notFound("tool", version === "" ? name : `${name}@${version}`)
      return { tool: toTool(found.row) }
    },

    async listProviders(_request, context) {
      const rows = await database.shared((tx) => listProviderRows(tx, providerNames), {
        signal: context.signal,
        name: "list providers",
      })
      return { providers: rows.map(toProvider) }
    },
  } satisfies ServiceImpl<typeof RegistryService>
}
