/**
 * The chain of a journal, recomputed: whether rows are the ones that were written, all of them, in
 * their order. No I/O.
 *
 * 1. Every row's hash covers the hash before it and everything the row says (`journal_frame` in the
 *    migrations); the first one follows 32 zero bytes.
 * 2. Positions begin at 1 and have no gap, and the last row is the one that the head names: a chain
 *    whose end was cut off does not verify against its head.
 * 3. A chain that was rewritten as a whole, head included, verifies: against that stand heads that
 *    were kept elsewhere.
 */
import { createHash } from "node:crypto"

/** One row of a journal as it is stored. */
export interface ChainRow {
  readonly position: number
  readonly runId: string
  readonly firstSequence: number
  readonly entryCount: number
  readonly entries: Uint8Array
  /** Microseconds of the epoch. */
  readonly createMicros: bigint
  readonly hash: Uint8Array
}

/** What a chain is held against: where it must end. */
export interface ChainHead {
  readonly position: number
  readonly hash: Uint8Array
}

/** The first place at which a chain is broken. */
export interface ChainFault {
  readonly position: number
  readonly fault: "missing" | "altered" | "not_the_head"
}

const zeroHash = Buffer.alloc(32)

/** Checks rows in their order; undefined where all is well. */
export function verifyJournal(
  workspaceId: string,
  rows: Iterable<ChainRow>,
  head: ChainHead,
): ChainFault | undefined {
  let position = 0
  let hash: Uint8Array = zeroHash
  for (const row of rows) {
    position += 1
    if (row.position !== position) return { position, fault: "missing" }
    hash = createHash("sha256").update(hash).update(frameOf(workspaceId, row)).digest()
    if (!equal(hash, row.hash)) return { position, fault: "altered" }
  }
  if (position < head.position) return { position: position + 1, fault: "missing" }
  if (position > head.position || !equal(hash, head.hash))
    return { position, fault: "not_the_head" }
  return undefined
}

/** What a row's hash covers beside the hash before it. Only the last member's length may vary. */
function frameOf(workspaceId: string, row: ChainRow): Buffer {
  const position = Buffer.alloc(8)
  position.writeBigInt64BE(BigInt(row.position))
  const place = Buffer.alloc(20)
  place.writeBigInt64BE(BigInt(row.firstSequence))
  place.writeInt32BE(row.entryCount, 8)
  place.writeBigInt64BE(row.createMicros, 12)
  const parts = [uuidBytes(workspaceId), position, uuidBytes(row.runId), place, row.entries]
  return Buffer.concat(parts)
}

function uuidBytes(id: string): Buffer {
  return Buffer.from(id.replaceAll("-", ""), "hex")
}

function equal(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}
