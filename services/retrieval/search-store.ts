import type { Tx } from "../../mesh/database.ts"
import { passageIdOf } from "./document.ts"
import type { QueryTerm } from "./query.ts"
import type { Candidate, RankedPassage, Weights } from "./ranking.ts"

/** What the first stage found: the best documents, and how rare each term is in the workspace. */
export interface FoundDocuments {
  readonly scores: ReadonlyMap<string, number>
  readonly rarity: ReadonlyMap<string, number>
}

/** A passage as it is answered. */
export interface PassageRow {
  readonly documentId: string
  readonly ordinal: number
  readonly passageId: string
  readonly version: number
  readonly start: number
  readonly end: number
  readonly headingPath: readonly string[]
  readonly page: number
  readonly anchor: string
  readonly text: string
  readonly title: string
}

/**
 * The documents that score highest by BM25 over weighted fields. Everything comes from rows of the
 * workspace; how many documents there are, how long, and how many hold a term is kept by ingestion.
 */
export async function findDocuments(
  tx: Tx,
  terms: readonly QueryTerm[],
  documentIds: readonly string[],
  limit: number,
  weights: Weights,
): Promise<FoundDocuments> {
  const rows = await tx.query<
    | { readonly documentId: string; readonly term: null; readonly value: number }
    | { readonly documentId: null; readonly term: string; readonly value: number }
  >(
    `with corpus as (
       select greatest(document_count, 1)::float8 as documents,
         greatest(word_count, 1)::float8 / greatest(document_count, 1) as average
       from corpora where workspace_id = $1::uuid
     ), matched as materialized (
       select term, document_id, word_count,
         title_count * $4::float8 + heading_count * $5::float8 + lead_count * $6::float8
           + body_count * $7::float8 as frequency
       from postings where workspace_id = $1::uuid and term = any ($2::text[])
     ), rarities as (
       select q.term, q.weight,
         ln(1 + (c.documents - v.document_count + 0.5) / (v.document_count + 0.5)) as rarity
       from unnest($2::text[], $3::float8[]) as q (term, weight)
       join vocabulary v on v.workspace_id = $1::uuid and v.term = q.term, corpus c
     )
     (select null::uuid as "documentId", term, rarity as value from rarities)
     union all
     (select m.document_id, null, sum(r.weight * r.rarity * m.frequency * ($8::float8 + 1) / (
         m.frequency + $8::float8 * (1 - $9::float8 + $9::float8 * m.word_count / c.average)))
     from matched m join rarities r using (term) cross join corpus c
     where cardinality($10::uuid[]) = 0 or m.document_id = any ($10::uuid[])
     group by m.document_id order by 3 desc, 1 limit $11::integer)`,
    [
      tx.workspaceId,
      terms.map(({ term }) => term),
      terms.map(({ weight }) => weight),
      ...[weights.title, weights.heading, weights.lead, weights.body],
      ...[weights.saturation, weights.length, documentIds, limit],
    ],
  )
  const rarity = new Map<string, number>()
  const scores = new Map<string, number>()
  for (const { documentId, term, value } of rows) {
    if (documentId === null) rarity.set(term, value)
    else scores.set(documentId, value)
  }
  return { scores, rarity }
}

/**
 * The words that tell some documents from the rest of the workspace: frequent there and rare
 * elsewhere, the most telling first with a worth from 1 downwards. A document counts by its score.
 */
export async function readTellingWords(
  tx: Tx,
  scores: ReadonlyMap<string, number>,
  limit: number,
): Promise<readonly { readonly term: string; readonly worth: number }[]> {
  const rows = await tx.query<{ term: string; value: number }>(
    `with corpus as (
       select greatest(document_count, 1)::float8 as documents
       from corpora where workspace_id = $1::uuid
     ), frequent as (
       select p.term, sum(f.score * (p.heading_count + p.lead_count + p.body_count)::float8
         / greatest(p.word_count, 1)) as share
       from unnest($2::uuid[], $3::float8[]) as f (document_id, score)
       join postings p on p.workspace_id = $1::uuid and p.document_id = f.document_id
       where left(p.term, 1) not in ('!', '=', '^')
       group by p.term having count(*) > 1
     )
     select term, share * ln(1 + (c.documents - v.document_count + 0.5) / (v.document_count + 0.5))
       as value
     from frequent f join vocabulary v using (term) cross join corpus c
     where v.workspace_id = $1::uuid
     order by value desc, term limit $4::integer`,
    [tx.workspaceId, [...scores.keys()], [...scores.values()], limit],
  )
  const highest = rows[0]?.value ?? 1
  return rows.map(({ term, value }) => ({ term, worth: value / highest }))
}

/** Where the terms stand in the documents found. */
export async function readCandidates(tx: Tx, found: FoundDocuments): Promise<readonly Candidate[]> {
  const rows = await tx.query<{
    documentId: string
    version: number
    firstPositions: readonly number[]
    terms: readonly string[]
    places: readonly string[]
  }>(
    `select d.document_id as "documentId", d.first_positions as "firstPositions",
       d.version, array_agg(p.term) as terms, array_agg(p.positions) as places
     from documents d join postings p using (workspace_id, document_id)
     where d.workspace_id = $1::uuid and p.workspace_id = $1::uuid
       and d.document_id = any ($2::uuid[]) and p.term = any ($3::text[])
     group by d.workspace_id, d.document_id`,
    [tx.workspaceId, [...found.scores.keys()], [...found.rarity.keys()]],
  )
  return rows.map(({ documentId, version, firstPositions, terms, places }) => ({
    documentId,
    version,
    firstPositions,
    score: found.scores.get(documentId) ?? 0,
    places: new Map(terms.map((term, index) => [term, readNumbers(places[index] ?? "")])),
  }))
}

/** The passages themselves, in the order asked for; one whose document has just gone is left out. */
export async function readPassages(
  tx: Tx,
  ranked: readonly RankedPassage[],
): Promise<readonly PassageRow[]> {
  const rows = await tx.query<Omit<PassageRow, "passageId">>(
    `select v.document_id as "documentId", r.ordinal, v.version, p.start, p.end,
       v.outline -> r.ordinal -> 2 as "headingPath",
       coalesce((v.outline -> r.ordinal ->> 3)::integer, 0) as page,
       coalesce(v.outline -> r.ordinal ->> 4, '') as anchor,
       substring(v.text from p.start + 1 for p.end - p.start) as text, v.title
     from unnest($2::uuid[], $3::bigint[], $4::integer[]) with ordinality
       as r (document_id, version, ordinal, rank)
     join document_versions v on v.workspace_id = $1::uuid and v.document_id = r.document_id
       and v.version = r.version
     cross join lateral (select (v.outline -> r.ordinal ->> 0)::integer as start,
       (v.outline -> r.ordinal ->> 1)::integer as "end") p
     where p.start is not null
     order by r.rank`,
    [
      tx.workspaceId,
      ranked.map(({ documentId }) => documentId),
      ranked.map(({ version }) => version),
      ranked.map(({ ordinal }) => ordinal),
    ],
  )
  return rows.map((row) => ({
    ...row,
    passageId: passageIdOf(row.documentId, row.version, row.ordinal),
  }))
}

/** Terms of the workspace that begin alike, in order. */
export async function readTermsWithPrefix(
  tx: Tx,
  prefix: string,
  limit: number,
): Promise<readonly string[]> {
  const rows = await tx.query<{ term: string }>(
    `select term from vocabulary
     where workspace_id = $1::uuid and term >= $2::text collate "C"
       and term <= $2::text || chr(1114111) and starts_with(term, $2::text)
     order by term limit $3::integer`,
    [tx.workspaceId, prefix, limit],
  )
  return rows.map(({ term }) => term)
}

function readNumbers(list: string): readonly number[] {
  return list === "" ? [] : list.split(",").map(Number)
}
