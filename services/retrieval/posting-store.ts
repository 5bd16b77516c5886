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

/** What a change of one document does to its workspace's index. */
export interface IndexChange {
  readonly documents: number
  readonly words: number
  /** Terms that the document holds now and did not hold before, and the other way round. */
  readonly added: readonly string[]
  readonly removed: readonly string[]
}

/**
 * Keeps the statistics of the workspace's index. Its row in `corpora` is shared, so this comes last
 * in a transaction; whoever holds that row counts terms alone, in any order.
 */
export async function countChange(tx: Tx, change: IndexChange): Promise<void> {
  const { documents, words, added, removed } = change
  await tx.query(
    `with corpus as (
       insert into corpora as c (workspace_id, document_count, word_count)
       values ($1::uuid, $2::bigint, $3::bigint)
       on conflict (workspace_id) do update set document_count = c.document_count + $2::bigint,
         word_count = c.word_count + $3::bigint
       returning workspace_id
     )
     insert into vocabulary as v (workspace_id, term, document_count)
     select workspace_id, term, 1 from corpus, unnest(string_to_array($4::text, e'\n')) as t (term)
     on conflict (workspace_id, term) do update set document_count = v.document_count + 1`,
    [tx.workspaceId, documents, words, added.length === 0 ? null : added.join("\n")],
  )
  if (removed.length === 0) return
  // A statement of its own, whose snapshot is younger than the lock.
  await tx.query(
    `with gone as (
       delete from vocabulary where workspace_id = $1::uuid and document_count = 1
         and term = any (string_to_array($2::text, e'\n'))
     )
     update vocabulary set document_count = document_count - 1
     where workspace_id = $1::uuid and document_count > 1
       and term = any (string_to_array($2::text, e'\n'))`,
    [tx.workspaceId, removed.join("\n")],
  )
}
