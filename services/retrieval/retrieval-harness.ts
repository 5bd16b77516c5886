/** What the service's tests stand on: the whole service on a database of its own, and a caller. */
import { join } from "node:path"
import { create } from "@bufbuild/protobuf"
import type { CallOptions } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import {
  type IngestDocumentResponse,
  IngestionService,
} from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import {
  type FoundPassage,
  SearchService,
} from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import {
  EventService,
  RecordEventsResponseSchema,
} from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { actingAs, memberSubject, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { route } from "../../mesh/service.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import type { AnalyserConfig } from "./analyser.ts"
import { createRetrieval } from "./service.ts"

/** One workspace as its members see it. */
export type Tenant = ReturnType<typeof tenant>
export type Harness = Awaited<ReturnType<typeof startRetrieval>>

export async function startRetrieval(
  options: { readonly analyser?: Partial<AnalyserConfig> } = {},
) {
  const stack = new AsyncDisposableStack()
  const events: { readonly workspaceId: string; readonly event: Event }[] = []
  const runtime = testRuntime("retrieval")
  const telemetry = {
    runtime: testRuntime("telemetry"),
    routes: [
      route(EventService, {
        recordEvents({ workspaceId, events: batch }) {
          events.push(...batch.map((event) => ({ workspaceId, event })))
          return create(RecordEventsResponseSchema, { recordedCount: batch.length })
        },
        batchRecordEvents() {
          throw new RunwardenError("METHOD_NOT_FOUND", { method: "BatchRecordEvents" })
        },
      }),
    ],
  }
  const config = stack.use(await testDatabase("retrieval"))
  const migrations = join(import.meta.dirname, "migrations")
  const database = stack.use(openDatabase(config, { runtime, migrations }))

  /** One more process of the service, on the same database. */
  async function startReplica() {
    const analyser = { threads: 1, timeoutMs: 25_000, maxWaiting: 64, ...options.analyser }
    const service = createRetrieval(
      { database: config, analyser, keptVersions: 3 },
      { runtime, telemetry: testClient(EventService, telemetry, "retrieval") },
    )
    await service.start(new AbortController().signal)
    const target = { routes: service.routes, runtime }
    return {
      newTenant: (workspaceId: string = newId()) => tenant(workspaceId, target),
      [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
    }
  }

  const { newTenant } = stack.use(await startReplica())
  return {
    ...{ events, database, newTenant, startReplica },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

function tenant(workspaceId: string, target: Parameters<typeof testClient>[1]) {
  const ingestion = testClient(IngestionService, target)
  const searching = testClient(SearchService, target)
  const tools = testClient(ToolProviderService, target, "tools")
  const as = (role: Role = Role.MEMBER): CallOptions =>
    actingAs(memberSubject(workspaceId, "ada", role), { timeoutMs: 30_000 })

  /** Ingests Markdown under the defaults of a test. */
  function ingest(
    documentId: string,
    version: number,
    content: string,
    rest: {
      readonly title?: string
      readonly mediaType?: string
      readonly requestId?: string
    } = {},
  ): Promise<IngestDocumentResponse> {
    const defaults = { requestId: newId(), title: "Handbook", mediaType: "text/markdown" }
    const request = { workspaceId, documentId, version: BigInt(version), content, ...defaults }
    return ingestion.ingestDocument({ ...request, ...rest }, as())
  }

  return {
    ...{ workspaceId, ingestion, searching, tools, as, ingest },
    asTools: actingAs(serviceSubject("tools", workspaceId)),
    remove: (documentId: string, version: number) =>
      ingestion.deleteDocument(
        { workspaceId, requestId: newId(), documentId, version: BigInt(version) },
        as(),
      ),
    async search(
      query: string,
      limits: { perDocumentLimit?: number } = {},
    ): Promise<FoundPassage[]> {
      return (await searching.search({ workspaceId, query, ...limits }, as(Role.VIEWER))).passages
    },
    async verify(citation: FoundPassage["citation"]) {
      if (citation === undefined) throw new Error("there is no citation")
      return await searching.verifyCitation({ workspaceId, citation }, as(Role.VIEWER))
    },
  }
}
