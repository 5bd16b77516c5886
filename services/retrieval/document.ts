import { createHash } from "node:crypto"
import { v5 } from "uuid"

/** What is stored of a document that decides about a write. Version 0 is "nothing". */
export interface DocumentState {
  readonly version: number
  /** The highest version that a deletion covers. */
  readonly deletedVersion: number
  /** Digest of everything that was ingested at `version`. */
  readonly sourceSha256: string
}

export type IngestDecision = "index" | "unchanged" | "stale" | "deleted" | "conflict"
export type DeleteDecision = "delete" | "stale"

/**
 * What an ingestion does. The outcome of any set of calls is the same in every order: the highest
 * version holds, and at the same version a deletion.
 */
export function decideIngest(
  stored: DocumentState,
  incoming: { readonly version: number; readonly sourceSha256: string },
): IngestDecision {
  if (incoming.version <= stored.deletedVersion) return "deleted"
  if (incoming.version < stored.version) return "stale"
  if (incoming.version > stored.version) return "index"
  return incoming.sourceSha256 === stored.sourceSha256 ? "unchanged" : "conflict"
}

/** Whether an ingestion of this version may still change something; once false, it stays false. */
export function mayIndex(stored: DocumentState, version: number): boolean {
  return version > stored.deletedVersion && version > stored.version
}

/** What a deletion does. */
export function decideDelete(stored: DocumentState, version: number): DeleteDecision {
  return version < stored.version ? "stale" : "delete"
}

/** The id of a passage: the same version gives the same passages wherever it is ingested. */
export function passageIdOf(documentId: string, version: number, ordinal: number): string {
  return v5(`${version}/${ordinal}`, documentId)
}

/** Of bytes, or of a text in UTF-8. */
export function sha256(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex")
}
