import type { Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { recordEvents } from "../../mesh/events.ts"
import type { Analysis, Content } from "./analysis.ts"
import { decideDelete, decideIngest, sha256 } from "./document.ts"
import {
  buryDocument,
  buryVersions,
  type DocumentRow,
  lockDocument,
  retireVersion,
  storeVersion,
} from "./document-store.ts"
import { countChange } from "./posting-store.ts"
import type { StemCache } from "./stem-cache.ts"
import { toPostings } from "./terms.ts"
import type { Vector } from "./vectors/embedder.ts"
import { storeVectors } from "./vectors/vector-store.ts"

/** One version of a document as it was handed in. */
export type Submission = Content & {
  readonly documentId: string
  readonly version: number
  readonly title: string
  readonly sourceUri: string
}

export interface Ingested {
  readonly outcome: "indexed" | "unchanged" | "stale" | "deleted"
  /** What is stored after the call; undefined where a deletion holds. */
  readonly document: DocumentRow | undefined
}

/** The vectors of a version's passages, and what made them. */
export interface Embedded {
  readonly model: string
  readonly vectors: readonly Vector[]
}

/** What every ingestion of a process shares. */
export interface IngestOptions {
  readonly stemCache: StemCache
  /** How many versions of a document stay verifiable, the newest included. */
  readonly keptVersions: number
}

/**
 * Stores a version and replaces what the index holds of the document. `analysis` may be missing only
 * where `mayIndex` said before that nothing can change any more.
 */
export async function ingest(
  tx: Tx,
  submission: Submission,
  analysis: Analysis | undefined,
  { stemCache, keptVersions }: IngestOptions,
  embedded?: Embedded,
): Promise<Ingested> {
  const { documentId, version } = submission
  const words = analysis?.tokens.filter(({ kind }) => kind === "word").map(({ text }) => text) ?? []
  const recalled = stemCache.recall(words)
  const stored = await lockDocument(tx, documentId, recalled.missing)
  const sourceSha256 = digestOfSubmission(submission)
  const decision = decideIngest(stored, { version, sourceSha256 })
  switch (decision) {
    case "deleted":
      return { outcome: decision, document: stored.version > 0 ? stored : undefined }
    case "unchanged":
    case "stale":
      return { outcome: decision, document: stored }
    case "conflict":
      throw new RunwardenError("ALREADY_EXISTS", {
        resource: "document version",
        id: `${documentId}@${version}`,
      })
    case "index":
      break
    default:
      throw new Error(`no such decision: ${decision satisfies never}`)
  }
  if (analysis === undefined) throw new Error("a version was not analysed")

  const isNew = stored.version === 0
  const before = new Set(isNew ? [] : await retireVersion(tx, documentId, keptVersions))
  const next = {
    ...submission,
    sourceSha256,
    contentSha256: sha256(submission.content),
    text: analysis.text,
    textLength: analysis.textLength,
    textSha256: sha256(analysis.text),
    wordCount: analysis.wordCount,
    passages: analysis.passages,
  }
  const stems = stemCache.learn(recalled, stored.stems)
  const postings = toPostings(analysis.tokens, stems)
  const document = await storeVersion(tx, next, postings)
  if (embedded !== undefined)
    await storeVectors(tx, documentId, version, embedded.model, embedded.vectors)
  await recordChange(tx, documentId, "indexed")
  const after = new Set(postings.map(({ term }) => term))
  await countChange(tx, {
    documents: isNew ? 1 : 0,
    words: analysis.wordCount - stored.wordCount,
    added: [...after].filter((term) => !before.has(term)),
    removed: [...before].filter((term) => !after.has(term)),
  })
  return { outcome: "indexed", document }
}

/** Removes a document with all its versions and leaves a tombstone of this version. */
export async function remove(
  tx: Tx,
  documentId: string,
  version: number,
): Promise<"deleted" | "stale"> {
  const stored = await lockDocument(tx, documentId)
  if (decideDelete(stored, version) === "stale") {
    await buryVersions(tx, documentId, version)
    return "stale"
  }
  const removed = await buryDocument(tx, documentId, version)
  if (stored.version === 0) return "deleted"
  await recordChange(tx, documentId, "deleted")
  await countChange(tx, { documents: -1, words: -stored.wordCount, added: [], removed })
  return "deleted"
}

/** Digest of all that makes a version: two that differ in anything are not the same version. */
export function digestOfSubmission(submission: Submission): string {
  const { title, mediaType, sourceUri, content } = submission
  const told = typeof content === "string" ? content : sha256(content)
  return sha256(JSON.stringify([title, mediaType, sourceUri, told]))
}

function recordChange(tx: Tx, documentId: string, change: "indexed" | "deleted"): Promise<void> {
  const value = { resource: "index", resourceId: documentId, change }
  return recordEvents(tx, [{ payload: { case: "resourceChanged", value } }])
}
