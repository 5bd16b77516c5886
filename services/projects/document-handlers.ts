import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  CreateDocumentResponseSchema,
  DeleteDocumentResponseSchema,
  DocumentService,
  UpdateDocumentResponseSchema,
} from "../../gen/runwarden/projects/v1/document_service_pb.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import * as actions from "./document-actions.ts"
import { authorOf, type HandlerDeps } from "./project-handlers.ts"
import { toDocument } from "./project-message.ts"

const { method } = DocumentService

export function documentHandlers({ database, changed }: HandlerDeps) {
  return {
    async createDocument(request, context) {
      const input = {
        projectId: request.projectId === "" ? undefined : request.projectId,
        title: request.title,
        mediaType: request.mediaType === "" ? actions.defaultMediaType : request.mediaType,
        content: request.content,
        metadata: request.metadata ?? {},
      }
      const answer = await answerOnce(
        database,
        method.createDocument,
        request,
        async (tx) => {
          const document = await actions.createDocument(tx, authorOf(context), input)
          return create(CreateDocumentResponseSchema, { document: toDocument(document) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },

    async getDocument(request, { signal }) {
      const document = await database.tenant(
        request.workspaceId,
        (tx) => actions.getDocument(tx, request.documentId),
        { signal, name: "get document" },
      )
      return { document: toDocument(document, document.content) }
    },

    async listDocuments(request, { signal }) {
      const { pageSize, pageToken } = request
      const projectId = request.projectId === "" ? undefined : request.projectId
      const page = await database.tenant(
        request.workspaceId,
        (tx) => actions.listDocuments(tx, { projectId, pageSize, pageToken }),
        { signal, name: "list documents" },
      )
      return {
        documents: page.documents.map((document) => toDocument(document)),
        nextPageToken: page.nextPageToken,
      }
    },

    async updateDocument(request, context) {
      const { documentId, etag, title, content, metadata } = request
      const change = { documentId, etag, title, content, metadata }
      const answer = await answerOnce(
        database,
        method.updateDocument,
        request,
        async (tx) => {
          const document = await actions.updateDocument(tx, authorOf(context), change)
          return create(UpdateDocumentResponseSchema, { document: toDocument(document) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },

    async deleteDocument(request, context) {
      const { documentId, etag } = request
      const answer = await answerOnce(
        database,
        method.deleteDocument,
        request,
        async (tx) => {
          await actions.deleteDocument(tx, authorOf(context), { documentId, etag })
          return create(DeleteDocumentResponseSchema)
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },
  } satisfies ServiceImpl<typeof DocumentService>
}
