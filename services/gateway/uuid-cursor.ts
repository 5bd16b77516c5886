import { RunwardenError } from "../../mesh/errors.ts"

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** Whether a text is a UUID. */
export function isUuid(text: string): boolean {
  return uuidPattern.test(text)
}

/** The id after which a page begins. A token can be made up: what is no id is refused. */
export function uuidCursor(after: readonly string[] | undefined): string | undefined {
  if (after === undefined) return undefined
  const [id] = after
  if (id !== undefined && after.length === 1 && isUuid(id)) return id
  throw new RunwardenError("INVALID_PAGE_TOKEN", { field: "page_token" })
}
