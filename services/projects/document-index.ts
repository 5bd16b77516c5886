/**
 * Hands every version of a document to retrieval, through the outbox.
 *
 * An item is an `Any` with the very request that will be sent; its `request_id` is the item's id,
 * so that a repeated delivery is answered as the first. Versions, not the order of arrival, decide
 * what retrieval keeps.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import { type Any, AnySchema, anyPack, anyUnpack } from "@bufbuild/protobuf/wkt"
import type { Client } from "@connectrpc/connect"
import {
  DeleteDocumentRequestSchema,
  IngestDocumentRequestSchema,
  type IngestionService,
} from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { createOutbox, enqueue, type Outbox } from "../../mesh/outbox.ts"
import type { Runtime } from "../../mesh/service.ts"
import type { DocumentRow } from "./document-store.ts"

const topic = "retrieval"

/** Refusals that no repetition changes. Such an item is logged and left out, or it would hold up every later one. */
const finalRefusals = [
  "INVALID_REQUEST",
  "MALFORMED_REQUEST",
  "UNSUPPORTED_MEDIA_TYPE",
  "REQUEST_TOO_LARGE",
  "REQUEST_ID_CONFLICT",
  "ALREADY_EXISTS",
] as const

export function enqueueIngestion(tx: Tx, document: DocumentRow, content: string): Promise<void> {
  const requestId = newId()
  const request = create(IngestDocumentRequestSchema, {
    workspaceId: tx.workspaceId ?? "",
    requestId,
    documentId: document.documentId,
    version: BigInt(document.version),
    title: document.title,
    mediaType: document.mediaType,
    content,
    sourceUri: `runwarden:/documents/${document.documentId}`,
  })
  return enqueueAny(tx, requestId, anyPack(IngestDocumentRequestSchema, request))
}

export function enqueueDeletion(tx: Tx, documentId: string, version: bigint): Promise<void> {
  const requestId = newId()
  const request = create(DeleteDocumentRequestSchema, {
    workspaceId: tx.workspaceId ?? "",
    requestId,
    documentId,
    version,
  })
  return enqueueAny(tx, requestId, anyPack(DeleteDocumentRequestSchema, request))
}

export function createIndexOutbox(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly retrieval: Client<typeof IngestionService>
  readonly timeoutMs: number
}): Outbox {
  const { database, runtime, retrieval, timeoutMs } = deps

  async function send(
    workspaceId: string,
    item: { readonly id: string; readonly payload: Uint8Array },
    signal: AbortSignal,
  ): Promise<void> {
    const options = actingAs(serviceSubject(runtime.name, workspaceId), { signal, timeoutMs })
    const any = fromBinary(AnySchema, item.payload)
    const ingestion = anyUnpack(any, IngestDocumentRequestSchema)
    const deletion = anyUnpack(any, DeleteDocumentRequestSchema)
    if (ingestion !== undefined) await retrieval.ingestDocument(ingestion, options)
    else if (deletion !== undefined) await retrieval.deleteDocument(deletion, options)
    else runtime.log.error({ item: item.id, type: any.typeUrl }, "outbox item of unknown type")
  }

  return createOutbox({
    database,
    runtime,
    topic,
    // Indexing takes long against storing: few at once, so that a lease holds what was claimed.
    maxItems: 16,
    leaseMs: 2 * timeoutMs,
    async deliver(workspaceId, items, signal) {
      for (const item of items) {
        try {
          await send(workspaceId, item, signal)
        } catch (error) {
          const reason = reasonOf(error)
          if (!finalRefusals.some((final) => final === reason)) throw error
          runtime.log.error({ item: item.id, workspaceId, reason }, "retrieval refused a document")
        }
      }
    },
  })
}

function enqueueAny(tx: Tx, id: string, any: Any): Promise<void> {
  return enqueue(tx, topic, [{ id, payload: toBinary(AnySchema, any) }])
}
