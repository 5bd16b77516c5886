import type { Tx } from "../../mesh/database.ts"
import type { AnalysedPassage } from "./analysis.ts"
import { type DocumentState, passageIdOf } from "./document.ts"

/** A stored document without its text. */
export interface DocumentRow extends DocumentState {
  readonly documentId: string
  readonly title: string
  readonly mediaType: string
  readonly sourceUri: string
  readonly contentSha256: string
  readonly textLength: number
  readonly textSha256: string
  readonly passageCount: number
  readonly wordCount: number
  readonly createTime: Date
  readonly updateTime: Date
}

/** One version as it is cited. `outline` has a row per passage: start, end, headings. */
export interface VersionRow {
  readonly title: string
  readonly text: string
  readonly outline: readonly OutlineRow[]
}

export type OutlineRow = readonly [start: number, end: number, headingPath: readonly string[]]

export interface NewVersion {
  readonly documentId: string
  readonly version: number
  readonly title: string
  readonly mediaType: string
  readonly sourceUri: string
  readonly sourceSha256: string
  readonly contentSha256: string
  readonly text: string
  readonly textLength: number
  readonly textSha256: string
  readonly wordCount: number
  readonly passages: readonly AnalysedPassage[]
}

const columns = `document_id as "documentId", version, deleted_version as "deletedVersion", title,
  media_type as "mediaType", source_uri as "sourceUri", source_sha256 as "sourceSha256",
  content_sha256 as "contentSha256", text_length as "textLength", text_sha256 as "textSha256",
  passage_count as "passageCount", word_count as "wordCount", create_time as "createTime",
  update_time as "updateTime"`

export function readDocument(tx: Tx, documentId: string): Promise<DocumentRow | undefined> {
  return tx.maybe<DocumentRow>(
    `select ${columns} from documents where workspace_id = $1::uuid and document_id = $2::uuid`,
    [tx.workspaceId, documentId],
  )
}

export async function readText(tx: Tx, documentId: string, version: number): Promise<string> {
  const row = await tx.maybe<{ text: string }>(
    `select text from document_versions
     where workspace_id = $1::uuid and document_id = $2::uuid and version = $3::bigint`,
    [tx.workspaceId, documentId, version],
  )
  return row?.text ?? ""
}

export function listDocuments(
  tx: Tx,
  after: string | undefined,
  limit: number,
): Promise<readonly DocumentRow[]> {
  return tx.query<DocumentRow>(
    `select ${columns} from documents
     where workspace_id = $1::uuid and version > 0 and ($2::uuid is null or document_id > $2::uuid)
     order by document_id limit $3::integer`,
    [tx.workspaceId, after ?? null, limit],
  )
}

/** Locks the document's row until the end of the transaction; makes an empty one where there is none. */
export function lockDocument(tx: Tx, documentId: string): Promise<DocumentRow> {
  return tx.one<DocumentRow>(
    `insert into documents as d (workspace_id, document_id) values ($1::uuid, $2::uuid)
     on conflict (workspace_id, document_id) do update set document_id = d.document_id
     returning ${columns}`,
    [tx.workspaceId, documentId],
  )
}

/** Makes a version the document's newest one; the caller replaces the postings. */
export async function storeVersion(
  tx: Tx,
  stored: DocumentState,
  next: NewVersion,
): Promise<DocumentRow> {
  const row = await tx.one<DocumentRow>(
    `update documents set version = $3::bigint, title = $4::text, media_type = $5::text,
       source_uri = $6::text, source_sha256 = $7::text, content_sha256 = $8::text,
       text_length = $9::integer, text_sha256 = $10::text, passage_count = $11::integer,
       word_count = $12::integer, first_positions = $13::integer[], update_time = now(),
       create_time = case when version = 0 then now() else create_time end
     where workspace_id = $1::uuid and document_id = $2::uuid returning ${columns}`,
    [
      ...[tx.workspaceId, next.documentId, next.version, next.title, next.mediaType],
      ...[next.sourceUri, next.sourceSha256, next.contentSha256, next.textLength, next.textSha256],
      ...[next.passages.length, next.wordCount],
      next.passages.map((passage) => passage.firstPosition),
    ],
  )
  const outline = next.passages.map(({ start, end, headingPath }) => [start, end, headingPath])
  await tx.query(
    `insert into document_versions (workspace_id, document_id, version, title, text, outline)
     values ($1::uuid, $2::uuid, $3::bigint, $4::text, $5::text, $6::jsonb)`,
    [
      ...[tx.workspaceId, next.documentId, next.version, next.title, next.text],
      JSON.stringify(outline),
    ],
  )
  if (stored.version > 0) await removePassages(tx, next.documentId)
  await insertPassages(tx, next)
  return row
}

/** Forgets the text of all but the newest versions. */
export async function trimVersions(tx: Tx, documentId: string, kept: number): Promise<void> {
  await tx.query(
    `delete from document_versions where workspace_id = $1::uuid and document_id = $2::uuid
       and version <= (select version from document_versions
         where workspace_id = $1::uuid and document_id = $2::uuid
         order by version desc offset $3::integer limit 1)`,
    [tx.workspaceId, documentId, kept],
  )
}

/** Empties the document and leaves its tombstone. */
export async function buryDocument(tx: Tx, documentId: string, version: number): Promise<void> {
  await tx.query(
    `update documents set version = 0, deleted_version = greatest(deleted_version, $3::bigint),
       title = '', media_type = '', source_uri = '', source_sha256 = '', content_sha256 = '',
       text_length = 0, text_sha256 = '', passage_count = 0, word_count = 0, first_positions = '{}',
       update_time = now()
     where workspace_id = $1::uuid and document_id = $2::uuid`,
    [tx.workspaceId, documentId, version],
  )
  await removePassages(tx, documentId)
  await tx.query(
    "delete from document_versions where workspace_id = $1::uuid and document_id = $2::uuid",
    [tx.workspaceId, documentId],
  )
}

/** Deletes the versions that a deletion covers from under a newer one, which stays. */
export async function buryVersions(tx: Tx, documentId: string, version: number): Promise<void> {
  await tx.query(
    `update documents set deleted_version = greatest(deleted_version, $3::bigint)
     where workspace_id = $1::uuid and document_id = $2::uuid`,
    [tx.workspaceId, documentId, version],
  )
  await tx.query(
    `delete from document_versions
     where workspace_id = $1::uuid and document_id = $2::uuid and version <= $3::bigint`,
    [tx.workspaceId, documentId, version],
  )
}

/** A version with only the stretch of its text that is asked for, counted in code points. */
export function readVersion(
  tx: Tx,
  documentId: string,
  version: number,
  stretch: { readonly start: number; readonly end: number },
): Promise<VersionRow | undefined> {
  return tx.maybe<VersionRow>(
    `select title, outline, substring(text from $4::integer + 1 for $5::integer) as text
     from document_versions
     where workspace_id = $1::uuid and document_id = $2::uuid and version = $3::bigint`,
    [
      ...[tx.workspaceId, documentId, version, stretch.start],
      Math.max(0, stretch.end - stretch.start),
    ],
  )
}

async function removePassages(tx: Tx, documentId: string): Promise<void> {
  await tx.query("delete from passages where workspace_id = $1::uuid and document_id = $2::uuid", [
    tx.workspaceId,
    documentId,
  ])
}

async function insertPassages(tx: Tx, next: NewVersion): Promise<void> {
  const { documentId, version, passages } = next
  if (passages.length === 0) return
  await tx.query(
    `insert into passages (workspace_id, document_id, ordinal, passage_id, version, start_offset,
       end_offset, heading_path, text)
     select $1::uuid, $2::uuid, p.ordinal - 1, p.passage_id, $3::bigint, p.start_offset, p.end_offset,
       array(select jsonb_array_elements_text(p.heading_path)), p.text
     from unnest($4::uuid[], $5::integer[], $6::integer[], $7::jsonb[], $8::text[])
       with ordinality as p (passage_id, start_offset, end_offset, heading_path, text, ordinal)`,
    [
      ...[tx.workspaceId, documentId, version],
      passages.map((_, ordinal) => passageIdOf(documentId, version, ordinal)),
      passages.map((passage) => passage.start),
      passages.map((passage) => passage.end),
      passages.map((passage) => JSON.stringify(passage.headingPath)),
      passages.map((passage) => passage.text),
    ],
  )
}
