import type { Tx } from "../../mesh/database.ts"
import type { Posting, Stem, Stems } from "./terms.ts"

/** Words are stemmed by Postgres' own dictionary, which also knows which are stop words. */
export async function readStems(tx: Tx, words: readonly string[]): Promise<Stems> {
  const rows = await tx.query<{ word: string; stems: readonly string[] | null }>(
    `select word, ts_lexize('english_stem', word) as stems from unnest($1::text[]) as w (word)`,
    [[...new Set(words)]],
  )
  return new Map<string, Stem>(
    rows.map(({ word, stems }) => [
      word,
      { text: stems?.[0] ?? word, isStopWord: stems?.length === 0 },
    ]),
  )
}

/** Replaces what the index holds of a document. */
export async function storePostings(
  tx: Tx,
  documentId: string,
  wordCount: number,
  postings: readonly Posting[],
): Promise<void> {
  await removePostings(tx, documentId)
  await tx.query(
    `insert into postings (workspace_id, document_id, term, title_count, heading_count, lead_count,
       body_count, word_count, positions)
     select $1::uuid, $2::uuid, p.term, p.title_count, p.heading_count, p.lead_count, p.body_count,
       $3::integer, p.positions::integer[]
     from unnest($4::text[], $5::integer[], $6::integer[], $7::integer[], $8::integer[], $9::text[])
       as p (term, title_count, heading_count, lead_count, body_count, positions)`,
    [
      ...[tx.workspaceId, documentId, wordCount],
      postings.map((posting) => posting.term),
      postings.map((posting) => posting.titleCount),
      postings.map((posting) => posting.headingCount),
      postings.map((posting) => posting.leadCount),
      postings.map((posting) => posting.bodyCount),
      postings.map((posting) => `{${posting.positions.join(",")}}`),
    ],
  )
}

export async function removePostings(tx: Tx, documentId: string): Promise<void> {
  await tx.query("delete from postings where workspace_id = $1::uuid and document_id = $2::uuid", [
    tx.workspaceId,
    documentId,
  ])
}

/** Keeps the size of the workspace's index. The row is shared, so this comes last in a transaction. */
export async function growCorpus(tx: Tx, documents: number, words: number): Promise<void> {
  await tx.query(
    `insert into corpora as c (workspace_id, document_count, word_count)
     values ($1::uuid, $2::bigint, $3::bigint)
     on conflict (workspace_id) do update set document_count = c.document_count + $2::bigint,
       word_count = c.word_count + $3::bigint`,
    [tx.workspaceId, documents, words],
  )
}
