import type { Tx } from "../../mesh/database.ts"
import type { AnalysedPassage } from "./analysis.ts"
import type { DocumentState } from "./document.ts"
import type { Posting, StemRows } from "./terms.ts"

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

/** One version as it is cited. `outline` has a row per passage. */
export interface VersionRow {
  readonly title: string
  readonly text: string
  readonly outline: readonly OutlineRow[]
}

/** Page and anchor are left out where the format has none. */
export type OutlineRow = readonly [
  start: number,
  end: number,
  headingPath: readonly string[],
  page?: number,
  anchor?: string,
]

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

/** More occurrences of a term in one document than these count as these. */
const largestCount = 32_767

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

/** A document as it was when its row was locked, and the stems that were asked for along the way. */
export interface LockedDocument extends DocumentRow {
  readonly stems: StemRows | null
}

/**
 * Locks the document's row until the end of the transaction; makes an empty one where there is none.
 * Words are stemmed in the same round trip.
 */
export function lockDocument(
  tx: Tx,
  documentId: string,
  words: readonly string[] = [],
): Promise<LockedDocument> {
  return tx.one<LockedDocument>(
    `with locked as (
       insert into documents as d (workspace_id, document_id) values ($1::uuid, $2::uuid)
       on conflict (workspace_id, document_id) do update set document_id = d.document_id
       returning ${columns}
     )
     select *, (select json_object_agg(word, ts_lexize('english_stem', word))
       from unnest(string_to_array($3::text, e'\n')) as w (word)) as stems
     from locked`,
    [tx.workspaceId, documentId, words.length === 0 ? null : words.join("\n")],
  )
}

function toOutlineRow({ start, end, headingPath, page, anchor }: AnalysedPassage): OutlineRow {
  if (anchor !== "") return [start, end, headingPath, page, anchor]
  return page > 0 ? [start, end, headingPath, page] : [start, end, headingPath]
}

/** Makes a version the document's newest one, with its text and postings, in one statement. */
export function storeVersion(
  tx: Tx,
  next: NewVersion,
  postings: readonly Posting[],
): Promise<DocumentRow> {
  const outline = next.passages.map(toOutlineRow)
  const counts = (count: (posting: Posting) => number) =>
    `{${postings.map((posting) => Math.min(count(posting), largestCount)).join(",")}}`
  return tx.one<DocumentRow>(
    `with document as (
       update documents set version = $3::bigint, title = $4::text, media_type = $5::text,
         source_uri = $6::text, source_sha256 = $7::text, content_sha256 = $8::text,
         text_length = $9::integer, text_sha256 = $10::text, passage_count = $11::integer,
         word_count = $12::integer, first_positions = $13::integer[], update_time = now(),
         create_time = case when version = 0 then now() else create_time end
       where workspace_id = $1::uuid and document_id = $2::uuid returning ${columns}
     ), stored_text as (
       insert into document_versions (workspace_id, document_id, version, title, text, outline)
       values ($1::uuid, $2::uuid, $3::bigint, $4::text, $14::text, $15::jsonb)
     ), stored_postings as (
       insert into postings (workspace_id, document_id, term, title_count, heading_count, lead_count,
         body_count, word_count, positions)
       select $1::uuid, $2::uuid, p.term, p.title_count, p.heading_count, p.lead_count,
         p.body_count, $12::integer, coalesce(p.positions, '')
       from unnest(string_to_array($16::text, e'\n'), $17::smallint[], $18::smallint[],
           $19::smallint[], $20::smallint[], string_to_array($21::text, e'\n'))
         as p (term, title_count, heading_count, lead_count, body_count, positions)
     )
     select * from document`,
    [
      ...[tx.workspaceId, next.documentId, next.version, next.title, next.mediaType],
      ...[next.sourceUri, next.sourceSha256, next.contentSha256, next.textLength, next.textSha256],
      ...[next.passages.length, next.wordCount],
      `{${next.passages.map((passage) => passage.firstPosition).join(",")}}`,
      ...[next.text, JSON.stringify(outline)],
      // A term holds no line break, so that lines are the cheapest array.
      postings.length === 0 ? null : postings.map(({ term }) => term).join("\n"),
      counts(({ titleCount }) => titleCount),
      counts(({ headingCount }) => headingCount),
      counts(({ leadCount }) => leadCount),
      counts(({ bodyCount }) => bodyCount),
      // One empty line is an array of nothing: a document of one word, which is its title.
      postings.map((each) => each.positions.join(",")).join("\n"),
    ],
  )
}

/**
 * Makes room for a newer version: removes the postings, and the text of versions that are too old.
 * Returns the terms of what was removed.
 */
export async function retireVersion(
  tx: Tx,
  documentId: string,
  kept: number,
): Promise<readonly string[]> {
  const rows = await tx.query<{ term: string }>(
    `with retired as (
       delete from document_versions where workspace_id = $1::uuid and document_id = $2::uuid
         and version <= (select version from document_versions
           where workspace_id = $1::uuid and document_id = $2::uuid
           order by version desc offset $3::integer limit 1)
     )
     delete from postings where workspace_id = $1::uuid and document_id = $2::uuid returning term`,
    [tx.workspaceId, documentId, kept - 1],
  )
  return rows.map(({ term }) => term)
}

/**
 * Empties the document with all that was stored of it, and leaves its tombstone. Returns the terms
 * that it held.
 */
export async function buryDocument(
  tx: Tx,
  documentId: string,
  version: number,
): Promise<readonly string[]> {
  const rows = await tx.query<{ term: string }>(
    `with buried as (
       update documents set version = 0, deleted_version = greatest(deleted_version, $3::bigint),
         title = '', media_type = '', source_uri = '', source_sha256 = '', content_sha256 = '',
         text_length = 0, text_sha256 = '', passage_count = 0, word_count = 0,
         first_positions = '{}', update_time = now()
       where workspace_id = $1::uuid and document_id = $2::uuid
     ), removed as (
       delete from document_versions where workspace_id = $1::uuid and document_id = $2::uuid
     )
     delete from postings where workspace_id = $1::uuid and document_id = $2::uuid returning term`,
    [tx.workspaceId, documentId, version],
  )
  return rows.map(({ term }) => term)
}

/** Deletes the versions that a deletion covers from under a newer one, which stays. */
export async function buryVersions(tx: Tx, documentId: string, version: number): Promise<void> {
  await tx.query(
    `with buried as (
       update documents set deleted_version = greatest(deleted_version, $3::bigint)
       where workspace_id = $1::uuid and document_id = $2::uuid
     )
     delete from document_versions
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
