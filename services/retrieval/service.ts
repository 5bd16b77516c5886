/**
 * Retrieval: documents in, passages with checkable citations out, for one workspace at a time.
 *
 * - analysis.ts reads a document: *-text.ts by format, passage.ts cuts, tokens.ts finds its words;
 *   analyser.ts does that in threads, within limits. markdown-cut.ts spares the Markdown parser what is plain.
 * - ingestion.ts stores and removes; document.ts decides by version. document-store.ts has the SQL
 *   of documents and their postings, posting-store.ts that of stems and the index's size, stem-cache.ts
 *   the stems asked for lately. Events wait for the outbox's next round, so that they go in batches.
 * - search.ts finds: query.ts, search-store.ts (documents by BM25, long questions expanded), ranking.ts (their passages),
 *   spelling.ts.
 * - vectors/, where there is an endpoint for embeddings and pgvector: embedder.ts asks the one,
 *   vector-store.ts has the SQL of the other, searcher.ts chooses between words and both, fusion.ts
 *   joins them.
 * - citation.ts says whether a citation holds.
 * - *-handlers.ts serve the protos; search-tool.ts is the tool that plans and agents call.
 */
import { join } from "node:path"
import type { Client } from "@connectrpc/connect"
import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { SearchService } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { createEventOutbox } from "../../mesh/events.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { createAnalyser } from "./analyser.ts"
import { type RetrievalConfig, readConfig } from "./config.ts"
import { ingestionHandlers } from "./ingestion-handlers.ts"
import { searchHandlers } from "./search-handlers.ts"
import { toolHandlers } from "./tool-handlers.ts"
import { createEmbedder } from "./vectors/embedder.ts"
import { createSearcher, createVectors } from "./vectors/searcher.ts"

export interface RetrievalDeps {
  readonly runtime: Runtime
  readonly telemetry: Client<typeof EventService>
}

/**
 * What a server must take for this service's largest requests, by method: 1 MB of content, with room
 * for what JSON adds to it and for the other fields.
 */
const readLimits = {
  "runwarden.retrieval.v1.IngestionService/IngestDocument": 1536 * 1024,
  "runwarden.retrieval.v1.SearchService/VerifyCitation": 512 * 1024,
}

export const retrievalModule: ServiceModule<RetrievalConfig> = {
  name: "retrieval",
  readLimits,
  readConfig,
  create: (config, runtime, peers) =>
    createRetrieval(config, { runtime, telemetry: peers.connect(EventService, "telemetry") }),
}

/** Creates the service; nothing runs before `start`. */
export function createRetrieval(config: RetrievalConfig, deps: RetrievalDeps): Service {
  const { runtime, telemetry } = deps
  const stack = new AsyncDisposableStack()
  const migrations = join(import.meta.dirname, "migrations")
  const database = stack.use(openDatabase(config.database, { runtime, migrations }))
  const events = stack.use(createEventOutbox({ database, runtime, telemetry }))
  const analyser = stack.use(createAnalyser(config.analyser))
  const { keptVersions, embeddings } = config
  const embedder = embeddings === undefined ? undefined : stack.use(createEmbedder(embeddings))
  const vectors = createVectors(database, embedder)
  const searcher = createSearcher({ database, vectors, log: runtime.log })
  const changed = () => events.poke()
  const ingestion = { database, analyser, keptVersions, vectors, changed }
  return {
    routes: [
      route(IngestionService, ingestionHandlers(ingestion)),
      route(SearchService, searchHandlers({ database, searcher })),
      route(ToolProviderService, toolHandlers({ searcher })),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      if (embedder !== undefined && !(await vectors.isStored()))
        runtime.log.warn("embeddings are configured, and the database has no pgvector")
      events.start()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
