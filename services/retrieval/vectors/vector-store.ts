import type { Tx } from "../../../mesh/database.ts"
import type { RankedPassage } from "../ranking.ts"
import type { Vector } from "./embedder.ts"

/** A vector that is looked for, and what made it. */
export interface VectorQuery {
  readonly vector: Vector
  readonly model: string
  readonly documentIds: readonly string[]
  readonly limit: number
}

/**
 * Up to so many passages of a workspace are all compared: exact, and at a cost that does not depend
 * on what other workspaces hold. Beyond, the approximate index is walked until enough are found.
 */
const mostCompared = 20_000

/** Whether this database stores vectors. */
export async function hasVectors(tx: Tx): Promise<boolean> {
  const { found } = await tx.one<{ found: boolean }>(
    "select to_regclass('passage_vectors') is not null as found",
  )
  return found
}

/** Stores the vectors of a version's passages in place of those of the document's earlier ones. */
export async function storeVectors(
  tx: Tx,
  documentId: string,
  version: number,
  model: string,
  vectors: readonly Vector[],
): Promise<void> {
  await tx.query(
    "delete from passage_vectors where workspace_id = $1::uuid and document_id = $2::uuid",
    [tx.workspaceId, documentId],
  )
  if (vectors.length === 0) return
  await tx.query(
    `insert into passage_vectors (workspace_id, document_id, version, ordinal, model, embedding)
     select $1::uuid, $2::uuid, $3::bigint, v.ordinal - 1, $4::text, v.embedding::vector
     from unnest($5::text[]) with ordinality as v (embedding, ordinal)`,
    [tx.workspaceId, documentId, version, model, vectors.map(toText)],
  )
}

/** The passages of the newest versions whose vectors are nearest by cosine, nearest first. */
export async function findNearest(
  tx: Tx,
  query: VectorQuery,
  compared: number = mostCompared,
): Promise<readonly RankedPassage[]> {
  const dimensions = query.vector.length
  const { count } = await tx.one<{ count: number }>(
    `select count(*)::integer as count from (
       select 1 from passage_vectors where workspace_id = $1::uuid limit $2::integer) as held`,
    [tx.workspaceId, compared + 1],
  )
  const isExact = count <= compared
  if (!isExact) await tx.query("set local hnsw.iterative_scan = strict_order")
  // The sum is no expression of the index, so that every passage is compared.
  const distance = `v.embedding::vector(${dimensions}) <=> $2::vector(${dimensions})`
  return await tx.query<RankedPassage>(
    `select v.document_id as "documentId", v.version, v.ordinal, 1 - (${distance}) as score
     from passage_vectors v
     where v.workspace_id = $1::uuid and vector_dims(v.embedding) = ${dimensions}
       and v.model = $3::text
       and (cardinality($4::uuid[]) = 0 or v.document_id = any ($4::uuid[]))
       and exists (select from documents d where d.workspace_id = $1::uuid
         and d.document_id = v.document_id and d.version = v.version)
     order by ${isExact ? `(${distance}) + 0, v.document_id, v.ordinal` : distance}
     limit $5::integer`,
    [tx.workspaceId, toText(query.vector), query.model, query.documentIds, query.limit],
  )
}

function toText(vector: Vector): string {
  return `[${vector.join(",")}]`
}
