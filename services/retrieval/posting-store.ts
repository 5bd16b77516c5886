import type { Tx } from "../../mesh/database.ts"
import { type StemRows, type Stems, toStems } from "./terms.ts"

/** Words are stemmed by Postgres' own dictionary, which also knows which are stop words. */
export async function readStems(tx: Tx, words: readonly string[]): Promise<Stems> {
  const { stems } = await tx.one<{ stems: StemRows | null }>(
    `select json_object_agg(word, ts_lexize('english_stem', word)) as stems
     from unnest($1::text[]) as w (word)`,
    [words],
  )
  return toStems(stems)
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
