import { createHash } from "node:crypto"
import type { JsonValue } from "@bufbuild/protobuf"
import { canonicalJson } from "./canonical.ts"
import { RunwardenError } from "./errors.ts"

/** A page as a store reads it: at most `limit` rows after the cursor. */
export interface Page {
  readonly limit: number
  /** The sort key of the last row of the page before; undefined for the first page. */
  readonly after: readonly string[] | undefined
}

/**
 * Reads the page that a list request asks for. A size of 0 is the default, one above the maximum
 * is the maximum. Throws INVALID_PAGE_TOKEN for a token that was not given for these filters.
 */
export function readPage(
  request: { readonly pageSize: number; readonly pageToken: string },
  filters: JsonValue,
  sizes: { readonly default: number; readonly max: number } = { default: 50, max: 500 },
): Page {
  const limit = request.pageSize <= 0 ? sizes.default : Math.min(request.pageSize, sizes.max)
  if (request.pageToken === "") return { limit, after: undefined }
  return { limit, after: decode(request.pageToken, fingerprint(filters)) }
}

/** The token of the page after the row with this sort key. */
export function nextPage(filters: JsonValue, cursor: readonly string[]): string {
  return Buffer.from(JSON.stringify([fingerprint(filters), ...cursor])).toString("base64url")
}

function decode(token: string, expected: string): readonly string[] {
  try {
    const parts: unknown = JSON.parse(Buffer.from(token, "base64url").toString("utf8"))
    if (Array.isArray(parts) && parts.every((part) => typeof part === "string")) {
      const [found, ...cursor] = parts
      if (found === expected && cursor.length > 0 && !cursor.some((part) => part.includes("\0"))) {
        return cursor
      }
    }
  } catch {
    // Not JSON: the same answer as for a token of another list.
  }
  throw new RunwardenError("INVALID_PAGE_TOKEN", { field: "page_token" })
}

function fingerprint(filters: JsonValue): string {
  return createHash("sha256").update(canonicalJson(filters)).digest("base64url").slice(0, 16)
}
