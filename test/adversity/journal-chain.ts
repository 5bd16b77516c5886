/** The chain of a workspace's journal, computed again from what the rows hold, by its definition alone. */
import { createHash } from "node:crypto"
import type { JournalHead, JournalRow } from "./world.ts"

const genesis = "00".repeat(32)

/** The first thing that is wrong with a journal, as a gap, an altered row or a cut-off end. */
export function faultOfChain(
  rows: readonly JournalRow[],
  head: JournalHead | undefined,
): string | undefined {
  let hash = genesis
  for (const [index, row] of rows.entries()) {
    if (row.position !== index + 1) return `has no position ${index + 1}`
    hash = linkOf(hash, row)
    if (hash !== row.hash) return `was altered at position ${row.position}`
  }
  if (head?.position !== rows.length || head.hash !== hash) return "does not end at its head"
  return undefined
}

/** The hash of a row that follows one of this hash. */
export function linkOf(before: string, row: Omit<JournalRow, "hash">): string {
  const numbers = Buffer.alloc(8 + 8 + 4 + 8)
  numbers.writeBigInt64BE(BigInt(row.position), 0)
  numbers.writeBigInt64BE(BigInt(row.firstSequence), 8)
  numbers.writeInt32BE(row.entryCount, 16)
  numbers.writeBigInt64BE(row.createMicros, 20)
  return createHash("sha256")
    .update(Buffer.from(before, "hex"))
    .update(uuidBytes(row.workspaceId))
    .update(numbers.subarray(0, 8))
    .update(uuidBytes(row.runId))
    .update(numbers.subarray(8))
    .update(row.entries)
    .digest("hex")
}

function uuidBytes(id: string): Buffer {
  return Buffer.from(id.replaceAll("-", ""), "hex")
}
