import { RunwardenError } from "../../mesh/errors.ts"

/** Throws INVALID_REQUEST for the first field that holds a NUL, which Postgres cannot store. */
export function refuseNul(fields: Readonly<Record<string, string>>): void {
  for (const [field, text] of Object.entries(fields)) {
    if (!text.includes("\0") && text.isWellFormed()) continue
    const violation = { field, description: "must hold neither NUL nor half a character" }
    throw new RunwardenError("INVALID_REQUEST", { field }, { violations: [violation] })
  }
}
