/**
 * What can be done with documents, inside a transaction that the caller opened: by an RPC or by a
 * tool alike. Every change is told to retrieval and to telemetry in the same transaction.
 *
 * Invariants:
 * 1. The version rises by one with every change, and a deletion counts as a version of its own, so
 *    that what reaches the index late or twice does no harm.
 * 2. Nothing is filed into, or changed in, an archived project; deleting stays possible.
 */
import { createHash } from "node:crypto"
import type { JsonObject } from "@bufbuild/protobuf"
import { canonicalJson } from "../../mesh/canonical.ts"
import type { Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { enqueueDeletion, enqueueIngestion } from "./document-index.ts"
import type { Content, DocumentRow, DocumentWithContent } from "./document-store.ts"
import * as store from "./document-store.ts"
import {
  type Author,
  assertEtag,
  assertSomething,
  holdOpenProject,
  pageSizes,
  recordChange,
} from "./project-actions.ts"

export const defaultMediaType = "text/markdown"
const maxMetadataBytes = 16_384

export async function createDocument(
  tx: Tx,
  author: Author,
  input: {
    readonly projectId: string | undefined
    readonly title: string
    readonly mediaType: string
    readonly content: string
    readonly metadata: JsonObject
  },
): Promise<DocumentRow> {
  assertMetadata(input.metadata)
  if (input.projectId !== undefined) await holdOpenProject(tx, input.projectId, "file a document")
  const content = measure(input.content)
  const document = await store.insertDocument(tx, {
    ...content,
    documentId: newId(),
    projectId: input.projectId ?? null,
    title: input.title,
    mediaType: input.mediaType,
    metadata: input.metadata,
    creator: author.actorId,
  })
  await enqueueIngestion(tx, document, content.content)
  await recordChange(tx, author, "document", document.documentId, "created")
  return document
}

export async function getDocument(tx: Tx, documentId: string): Promise<DocumentWithContent> {
  const document = await store.findDocument(tx, documentId)
  if (document === undefined) throw notFound("document", documentId)
  return document
}

export async function listDocuments(
  tx: Tx,
  request: {
    readonly projectId: string | undefined
    readonly pageSize: number
    readonly pageToken: string
  },
): Promise<{ readonly documents: readonly DocumentRow[]; readonly nextPageToken: string }> {
  const filters = { list: "documents", project: request.projectId ?? "" }
  const page = readPage(request, filters, pageSizes)
  const rows = await store.listDocuments(tx, { projectId: request.projectId }, page)
  const documents = rows.slice(0, page.limit)
  const last = documents.at(-1)
  const isLast = rows.length <= page.limit || last === undefined
  return { documents, nextPageToken: isLast ? "" : nextPage(filters, [last.documentId]) }
}

export async function updateDocument(
  tx: Tx,
  author: Author,
  input: {
    readonly documentId: string
    readonly etag: string
    readonly title: string | undefined
    readonly content: string | undefined
    readonly metadata: JsonObject | undefined
  },
): Promise<DocumentRow> {
  assertSomething({ title: input.title, content: input.content, metadata: input.metadata })
  if (input.metadata !== undefined) assertMetadata(input.metadata)
  const document = await lockCurrent(tx, input)
  if (document.projectId !== null)
    await holdOpenProject(tx, document.projectId, "update a document")
  const content = input.content === undefined ? document : measure(input.content)
  const updated = await store.updateDocument(tx, document.documentId, {
    title: input.title ?? document.title,
    metadata: input.metadata ?? document.metadata,
    content: content.content,
    contentBytes: content.contentBytes,
    contentSha256: content.contentSha256,
  })
  await enqueueIngestion(tx, updated, content.content)
  await recordChange(tx, author, "document", document.documentId, "updated")
  return updated
}

export async function deleteDocument(
  tx: Tx,
  author: Author,
  input: { readonly documentId: string; readonly etag: string },
): Promise<void> {
  const document = await lockCurrent(tx, input)
  await store.deleteDocument(tx, document.documentId)
  await enqueueDeletion(tx, document.documentId, BigInt(document.version) + 1n)
  await recordChange(tx, author, "document", document.documentId, "deleted")
}

async function lockCurrent(
  tx: Tx,
  input: { readonly documentId: string; readonly etag: string },
): Promise<DocumentWithContent> {
  const document = await store.lockDocument(tx, input.documentId)
  if (document === undefined) throw notFound("document", input.documentId)
  assertEtag("document", document.documentId, input.etag, document.version)
  return document
}

function measure(content: string): Content {
  const bytes = Buffer.from(content, "utf8")
  return {
    content,
    contentBytes: bytes.length,
    contentSha256: createHash("sha256").update(bytes).digest("hex"),
  }
}

function assertMetadata(metadata: JsonObject): void {
  if (Buffer.byteLength(canonicalJson(metadata), "utf8") <= maxMetadataBytes) return
  const description = `has more than ${maxMetadataBytes} bytes as canonical JSON`
  throw new RunwardenError(
    "INVALID_REQUEST",
    { field: "metadata" },
    { violations: [{ field: "metadata", description }] },
  )
}
