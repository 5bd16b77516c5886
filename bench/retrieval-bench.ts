/** The retrieval service on a PostgreSQL of its own, with fsync on, as a bench calls it. */
import { v5 } from "uuid"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { IngestionService } from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { SearchService } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { EventService } from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { actingAs, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { route } from "../mesh/service.ts"
import { testClient, testRuntime } from "../mesh/testing.ts"
import { createRetrieval, retrievalModule } from "../services/retrieval/service.ts"
import { startBenchServer } from "./bench-server.ts"
import type { TestDocument } from "./retrieval-sets.ts"

/** Documents of one test set in a workspace of their own. */
export interface Corpus {
  ingest(document: TestDocument): Promise<void>
  /** The documents found, best first, each once. */
  search(query: string, limit: number): Promise<readonly string[]>
}

export interface RetrievalBench extends AsyncDisposable {
  readonly postgresVersion: string
  newCorpus(): Corpus
}

const maxAttempts = 3

export async function startRetrievalBench(): Promise<RetrievalBench> {
  const stack = new AsyncDisposableStack()
  const options = { dataFolder: undefined, countsStatements: false }
  const server = stack.use(await startBenchServer(options))
  const { services } = await server.databases("quality")
  const { appUrl, workerUrl, ownerUrl } = services.retrieval
  const runtime = testRuntime("retrieval")
  const recordEvents = () => ({})
  const batchRecordEvents = () => ({})
  const telemetry = {
    runtime: testRuntime("telemetry"),
    routes: [route(EventService, { recordEvents, batchRecordEvents })],
  }
  const config = retrievalModule.readConfig({
    RETRIEVAL_DATABASE_URL: appUrl,
    RETRIEVAL_WORKER_DATABASE_URL: workerUrl,
    RETRIEVAL_OWNER_DATABASE_URL: ownerUrl,
  })
  const telemetryClient = testClient(EventService, telemetry, "retrieval")
  const service = stack.use(createRetrieval(config, { runtime, telemetry: telemetryClient }))
  await service.start(new AbortController().signal)
  const target = { routes: service.routes, runtime }
  const ingestion = testClient(IngestionService, target)
  const searching = testClient(SearchService, target)
  return {
    postgresVersion: server.version,
    newCorpus() {
      const workspaceId = newId()
      const names = new Map<string, string>()
      const caller = () =>
        actingAs(memberSubject(workspaceId, "bench", Role.MEMBER), { timeoutMs: 60_000 })
      return {
        async ingest({ id, title, text }) {
          const documentId = v5(id, workspaceId)
          names.set(documentId, id)
          const fixed = { requestId: newId(), version: 1n, mediaType: "text/markdown" }
          const request = { workspaceId, documentId, title, content: text, ...fixed }
          await retried(() => ingestion.ingestDocument(request, caller()))
        },
        async search(query, limit) {
          const request = { workspaceId, query, limit, perDocumentLimit: 1 }
          const { passages } = await searching.search(request, caller())
          return passages.map(({ citation }) => names.get(citation?.documentId ?? "") ?? "")
        },
      }
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** As a client does: what may pass on a busy machine is tried again, under the same request id. */
async function retried<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call()
    } catch (error) {
      if (attempt === maxAttempts || reasonOf(error) !== "DEPENDENCY_UNAVAILABLE") throw error
    }
  }
}
