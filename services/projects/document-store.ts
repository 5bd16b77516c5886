import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../mesh/database.ts"
import type { Page } from "../../mesh/paging.ts"
import { uuidCursor } from "./project-store.ts"

export interface DocumentRow {
  readonly documentId: string
  readonly projectId: string | null
  readonly title: string
  readonly mediaType: string
  readonly contentBytes: number
  readonly contentSha256: string
  readonly metadata: JsonObject
  /** A bigint of Postgres, as text. */
  readonly version: string
  readonly creator: string
  readonly createTime: Date
  readonly updateTime: Date
}

export interface DocumentWithContent extends DocumentRow {
  readonly content: string
}

/** The text of a document with what is computed from it. */
export interface Content {
  readonly content: string
  readonly contentBytes: number
  readonly contentSha256: string
}

const columns = `document_id as "documentId", project_id as "projectId", title,
  media_type as "mediaType", content_bytes as "contentBytes", content_sha256 as "contentSha256",
  metadata, version::text, creator, create_time as "createTime", update_time as "updateTime"`

export function insertDocument(
  tx: Tx,
  document: Pick<
    DocumentRow,
    "documentId" | "projectId" | "title" | "mediaType" | "metadata" | "creator"
  > &
    Content,
): Promise<DocumentRow> {
  return tx.one<DocumentRow>(
    `insert into documents (workspace_id, document_id, project_id, title, media_type, content,
       content_bytes, content_sha256, metadata, version, creator)
     values (runwarden.current_workspace(), $1::uuid, $2::uuid, $3::text, $4::text, $5::text,
       $6::int, $7::text, $8::jsonb, 1, $9::text)
     returning ${columns}`,
    [
      document.documentId,
      document.projectId,
      document.title,
      document.mediaType,
      document.content,
      document.contentBytes,
      document.contentSha256,
      JSON.stringify(document.metadata),
      document.creator,
    ],
  )
}

export function findDocument(tx: Tx, documentId: string): Promise<DocumentWithContent | undefined> {
  return tx.maybe<DocumentWithContent>(
    `select ${columns}, content from documents
     where workspace_id = runwarden.current_workspace() and document_id = $1::uuid`,
    [documentId],
  )
}

/** Reads a document and keeps others from changing it until the transaction ends. */
export function lockDocument(tx: Tx, documentId: string): Promise<DocumentWithContent | undefined> {
  return tx.maybe<DocumentWithContent>(
    `select ${columns}, content from documents
     where workspace_id = runwarden.current_workspace() and document_id = $1::uuid
     for update`,
    [documentId],
  )
}

export function listDocuments(
  tx: Tx,
  filter: { readonly projectId: string | undefined },
  page: Page,
): Promise<readonly DocumentRow[]> {
  return tx.query<DocumentRow>(
    `select ${columns} from documents
     where workspace_id = runwarden.current_workspace()
       and ($1::uuid is null or project_id = $1::uuid)
       and ($2::uuid is null or document_id < $2::uuid)
     order by document_id desc
     limit $3::int`,
    [filter.projectId ?? null, uuidCursor(page), page.limit + 1],
  )
}

export function updateDocument(
  tx: Tx,
  documentId: string,
  change: Pick<DocumentRow, "title" | "metadata"> & Content,
): Promise<DocumentRow> {
  return tx.one<DocumentRow>(
    `update documents
     set title = $2::text, metadata = $3::jsonb, content = $4::text, content_bytes = $5::int,
         content_sha256 = $6::text, version = version + 1, update_time = now()
     where workspace_id = runwarden.current_workspace() and document_id = $1::uuid
     returning ${columns}`,
    [
      documentId,
      change.title,
      JSON.stringify(change.metadata),
      change.content,
      change.contentBytes,
      change.contentSha256,
    ],
  )
}

export async function deleteDocument(tx: Tx, documentId: string): Promise<void> {
  await tx.query(
    `delete from documents
     where workspace_id = runwarden.current_workspace() and document_id = $1::uuid`,
    [documentId],
  )
}
