import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import { type Citation, CitationSchema } from "../../gen/runwarden/retrieval/v1/citation_pb.ts"
import { type Document, DocumentSchema } from "../../gen/runwarden/retrieval/v1/document_pb.ts"
import { sha256 } from "./document.ts"
import type { DocumentRow } from "./document-store.ts"
import type { PassageRow } from "./search-store.ts"

export function toDocument(row: DocumentRow): Document {
  return create(DocumentSchema, {
    documentId: row.documentId,
    version: BigInt(row.version),
    title: row.title,
    mediaType: row.mediaType,
    sourceUri: row.sourceUri,
    contentSha256: row.contentSha256,
    textLength: row.textLength,
    textSha256: row.textSha256,
    passageCount: row.passageCount,
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
  })
}

export function toCitation(row: PassageRow): Citation {
  return create(CitationSchema, {
    documentId: row.documentId,
    version: BigInt(row.version),
    passageId: row.passageId,
    start: row.start,
    end: row.end,
    text: row.text,
    textSha256: sha256(row.text),
    title: row.title,
    headingPath: [...row.headingPath],
    page: row.page,
    anchor: row.anchor,
  })
}
