import type { DocumentState } from "./document.ts"
import { passageIdOf, sha256 } from "./document.ts"
import type { OutlineRow, VersionRow } from "./document-store.ts"

/** What a citation claims. */
export interface Claim {
  readonly documentId: string
  readonly version: number
  readonly passageId: string
  readonly start: number
  readonly end: number
  readonly text: string
  readonly textSha256: string
  readonly title: string
  readonly headingPath: readonly string[]
  readonly page: number
  readonly anchor: string
}

export type CitationVerdict =
  | "verified"
  | "text_mismatch"
  | "source_mismatch"
  | "version_gone"
  | "document_deleted"

/**
 * Judges a claim against what is stored. `stored.text` is the stretch of the version's text from the
 * claim's start to its end. Whatever is not proven is not verified.
 */
export function judgeCitation(
  claim: Claim,
  document: DocumentState,
  stored: VersionRow | undefined,
): CitationVerdict {
  if (claim.version <= document.deletedVersion) return "document_deleted"
  if (stored === undefined) return "version_gone"
  const ordinal = stored.outline.findIndex((row) => holds(row, claim))
  const passage = stored.outline[ordinal]
  if (passage === undefined || stored.text !== claim.text) return "text_mismatch"
  if (sha256(claim.text) !== claim.textSha256) return "text_mismatch"
  const [, , headingPath, page = 0, anchor = ""] = passage
  const isSource =
    claim.title === stored.title &&
    (claim.page === 0 || claim.page === page) &&
    (claim.anchor === "" || claim.anchor === anchor) &&
    claim.passageId === passageIdOf(claim.documentId, claim.version, ordinal) &&
    claim.headingPath.length === headingPath.length &&
    claim.headingPath.every((heading, index) => heading === headingPath[index])
  return isSource ? "verified" : "source_mismatch"
}

function holds([start, end]: OutlineRow, claim: Claim): boolean {
  return start <= claim.start && claim.start < claim.end && claim.end <= end
}
