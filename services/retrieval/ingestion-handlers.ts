import { clone, create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  DeleteDocumentResponseSchema,
  DeleteOutcome,
  GetDocumentResponseSchema,
  type IngestDocumentRequest,
  type IngestDocumentResponse,
  IngestDocumentResponseSchema,
  IngestionService,
  IngestOutcome,
  ListDocumentsResponseSchema,
} from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import type { Analyser } from "./analyser.ts"
import {
  type Analysis,
  binaryTypes,
  type Content,
  isBinaryType,
  isTextType,
  textTypes,
} from "./analysis.ts"
import { mayIndex } from "./document.ts"
import { toDocument } from "./document-message.ts"
import { listDocuments, readDocument, readText } from "./document-store.ts"
import { type Embedded, type Ingested, ingest, remove, type Submission } from "./ingestion.ts"
import { createStemCache } from "./stem-cache.ts"
import type { Vectors } from "./vectors/searcher.ts"

export interface IngestionDeps {
  readonly database: Database
  readonly analyser: Analyser
  readonly keptVersions: number
  readonly vectors: Vectors
  /** Told after every stored change. */
  changed(): void
}

/** From this length on it is worth asking first whether the content has to be read at all. */
const longContent = 64 * 1024

const pageSizes = { default: 50, max: 200 }

export function ingestionHandlers(deps: IngestionDeps): ServiceImpl<typeof IngestionService> {
  const { database, analyser, keptVersions, vectors, changed } = deps
  const options = { stemCache: createStemCache(), keptVersions }
  return {
    async ingestDocument(request, { signal }) {
      const submission = readSubmission(request)
      const isCheap = submission.content.length < longContent && vectors.embedder === undefined
      const isNeeded =
        isCheap ||
        (await database.tenant(request.workspaceId, (tx) => isNews(tx, submission), {
          signal,
          name: "readDocument",
        }))
      const analysis = isNeeded ? await analyser.analyse(submission, signal) : undefined
      const embedded = await embedPassages(vectors, submission, analysis, signal)
      const response = await answerOnce(
        database,
        IngestionService.method.ingestDocument,
        request,
        async (tx) => toIngestResponse(await ingest(tx, submission, analysis, options, embedded)),
        { signal, keep: withoutContent },
      )
      changed()
      return restoreContent(response, submission)
    },

    async getDocument({ workspaceId, documentId, includeText }, { signal }) {
      return await database.tenant(
        workspaceId,
        async (tx) => {
          const row = await readDocument(tx, documentId)
          if (row === undefined || row.version === 0) throw notFound("document", documentId)
          const text = includeText ? await readText(tx, documentId, row.version) : ""
          return create(GetDocumentResponseSchema, { document: toDocument(row), text })
        },
        { signal, name: "getDocument" },
      )
    },

    async listDocuments(request, { signal }) {
      const { limit, after } = readPage(request, {}, pageSizes)
      const rows = await database.tenant(
        request.workspaceId,
        (tx) => listDocuments(tx, after?.[0], limit + 1),
        { signal, name: "listDocuments" },
      )
      const page = rows.slice(0, limit)
      const last = rows.length > limit ? page.at(-1) : undefined
      return create(ListDocumentsResponseSchema, {
        documents: page.map((row) => toDocument(row)),
        nextPageToken: last === undefined ? "" : nextPage({}, [last.documentId]),
      })
    },

    async deleteDocument(request, { signal }) {
      const method = IngestionService.method.deleteDocument
      const response = await answerOnce(
        database,
        method,
        request,
        async (tx) => {
          const outcome = await remove(tx, request.documentId, Number(request.version))
          return create(DeleteDocumentResponseSchema, { outcome: deleteOutcomes[outcome] })
        },
        { signal },
      )
      changed()
      return response
    },
  }
}

/** Vectors of all passages, each with what stands above it; none where there is no room for them. */
async function embedPassages(
  { embedder, isStored }: Vectors,
  { title }: Submission,
  analysis: Analysis | undefined,
  signal: AbortSignal,
): Promise<Embedded | undefined> {
  if (embedder === undefined || analysis === undefined || !(await isStored())) return undefined
  const texts = analysis.passages.map(({ headingPath, text }) =>
    [title, headingPath.join(" > "), text].filter((part) => part !== "").join("\n"),
  )
  return { model: embedder.model, vectors: await embedder.embed(texts, signal) }
}

const deleteOutcomes = {
  deleted: DeleteOutcome.DELETED,
  stale: DeleteOutcome.STALE,
} as const satisfies Record<string, DeleteOutcome>

const ingestOutcomes = {
  indexed: IngestOutcome.INDEXED,
  unchanged: IngestOutcome.UNCHANGED,
  stale: IngestOutcome.STALE,
  deleted: IngestOutcome.DELETED,
} as const satisfies Record<Ingested["outcome"], IngestOutcome>

async function isNews(tx: Tx, { documentId, version }: Submission): Promise<boolean> {
  const stored = await readDocument(tx, documentId)
  return mayIndex(stored ?? { version: 0, deletedVersion: 0, sourceSha256: "" }, version)
}

/** The answer as it is kept for repeated requests: a deletion must not leave the title in it. */
function withoutContent(response: IngestDocumentResponse): IngestDocumentResponse {
  const kept = clone(IngestDocumentResponseSchema, response)
  if (kept.document !== undefined) Object.assign(kept.document, { title: "", sourceUri: "" })
  return kept
}

/** A repeated request brings back itself what its answer was kept without. */
function restoreContent(
  response: IngestDocumentResponse,
  { title, sourceUri, version }: Submission,
): IngestDocumentResponse {
  const { document } = response
  if (document?.title === "" && document.version === BigInt(version))
    Object.assign(document, { title, sourceUri })
  return response
}

function toIngestResponse({ outcome, document }: Ingested) {
  return create(IngestDocumentResponseSchema, {
    outcome: ingestOutcomes[outcome],
    ...(document === undefined ? {} : { document: toDocument(document) }),
  })
}

/** What cannot be stored or cited exactly is refused by the name of its field. */
function readSubmission(request: IngestDocumentRequest): Submission {
  const { documentId, title, sourceUri } = request
  const content = readContent(request)
  requireText("title", title)
  requireText("source_uri", sourceUri)
  return { ...content, documentId, version: Number(request.version), title, sourceUri }
}

/** Text comes as characters, a file as bytes. */
function readContent({ mediaType: given, content, data }: IngestDocumentRequest): Content {
  const mediaType = given.split(";", 1)[0]?.trim().toLowerCase() ?? ""
  if (isTextType(mediaType)) {
    if (data.length > 0) refuse("data", `is for files; ${mediaType} comes in content`)
    requireText("content", content)
    return { mediaType, content }
  }
  if (isBinaryType(mediaType)) {
    if (content !== "") refuse("content", `is for text; ${mediaType} comes in data`)
    if (data.length === 0) refuse("data", "must hold the file")
    return { mediaType, content: data }
  }
  const supported = [...textTypes, ...binaryTypes].join(", ")
  throw new RunwardenError("UNSUPPORTED_MEDIA_TYPE", { media_type: given, supported })
}

function requireText(field: string, value: string): void {
  if (!value.isWellFormed()) refuse(field, "must be well-formed Unicode")
  if (value.includes("\0")) refuse(field, "must not contain NUL characters")
}

function refuse(field: string, description: string): never {
  throw new RunwardenError("INVALID_REQUEST", { field }, { violations: [{ field, description }] })
}
