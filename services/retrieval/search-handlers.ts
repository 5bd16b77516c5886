import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import type { Citation } from "../../gen/runwarden/retrieval/v1/citation_pb.ts"
import {
  CitationVerdict,
  SearchMode,
  SearchResponseSchema,
  type SearchService,
  VerifyCitationResponseSchema,
} from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { type Claim, judgeCitation, type CitationVerdict as Verdict } from "./citation.ts"
import { toCitation } from "./document-message.ts"
import { readDocument, readVersion } from "./document-store.ts"
import type { Found, SearchMode as Mode, Searcher } from "./vectors/searcher.ts"

/** Passages of one answer, and of one document within it, unless the request says otherwise. */
export const defaultLimits = { passages: 10, perDocument: 3 } as const

export function searchHandlers(deps: {
  readonly database: Database
  readonly searcher: Searcher
}): ServiceImpl<typeof SearchService> {
  const { database, searcher } = deps
  return {
    async search(request, { signal }) {
      const limits = {
        passages: request.limit || defaultLimits.passages,
        perDocument: request.perDocumentLimit || defaultLimits.perDocument,
      }
      const query = { text: request.query, documentIds: request.documentIds, limits }
      const mode = readMode(request.mode)
      const { passages, ...used } = await searcher.search(request.workspaceId, query, mode, signal)
      return create(SearchResponseSchema, {
        mode: modes[used.mode],
        passages: passages.map((row) => ({ citation: toCitation(row), score: row.score })),
      })
    },

    async verifyCitation({ workspaceId, citation }, { signal }) {
      const claim = readClaim(citation)
      return await database.tenant(
        workspaceId,
        async (tx) => {
          const document = await readDocument(tx, claim.documentId)
          if (document === undefined) throw notFound("document", claim.documentId)
          const stored = await readVersion(tx, claim.documentId, claim.version, claim)
          const verdict = judgeCitation(claim, document, stored)
          return create(VerifyCitationResponseSchema, {
            verdict: verdicts[verdict],
            current: verdict === "verified" && claim.version === document.version,
          })
        },
        { signal, name: "verifyCitation" },
      )
    },
  }
}

const verdicts = {
  verified: CitationVerdict.VERIFIED,
  text_mismatch: CitationVerdict.TEXT_MISMATCH,
  source_mismatch: CitationVerdict.SOURCE_MISMATCH,
  version_gone: CitationVerdict.VERSION_GONE,
  document_deleted: CitationVerdict.DOCUMENT_DELETED,
} as const satisfies Record<Verdict, CitationVerdict>

const modes = {
  lexical: SearchMode.LEXICAL,
  hybrid: SearchMode.HYBRID,
} as const satisfies Record<Found["mode"], SearchMode>

function readMode(mode: SearchMode): Mode {
  switch (mode) {
    case SearchMode.UNSPECIFIED:
      return "best"
    case SearchMode.HYBRID:
      return "hybrid"
    default:
      return "lexical"
  }
}

function readClaim(citation: Citation | undefined): Claim {
  if (citation === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "citation" })
  return { ...citation, version: Number(citation.version) }
}
