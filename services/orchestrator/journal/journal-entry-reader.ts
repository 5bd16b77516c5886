/**
 * Reads the entries of a journal row one by one without making messages of them: telemetry is told
 * of half of them, and of a few fields of each, so that a general decoder costs ten times as much. A
 * test holds it against that decoder.
 */

/** The most fields that an entry of any kind has. */
const maxFields = 16
const eventsField = 1
const firstKind = 10
const wireTypes = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const

/** Stands on one entry after the other. Fields that an entry does not have are 0 or empty. */
export class JournalEntryReader {
  /** The field of RunEvent that the entry is; 0 for one that says nothing. */
  kind = 0
  readonly #bytes: Buffer
  readonly #numbers: number[] = new Array<number>(maxFields).fill(0)
  readonly #starts: number[] = new Array<number>(maxFields).fill(0)
  readonly #ends: number[] = new Array<number>(maxFields).fill(0)
  #at = 0

  /** Reads an encoded ListRunEventsResponse. */
  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.isBuffer(bytes)
      ? bytes
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Goes on to the next entry; false where there is none. */
  next(): boolean {
    while (this.#at < this.#bytes.length) {
      const tag = this.#varint()
      const start = this.#skip(tag & 7)
      if (tag >>> 3 !== eventsField) continue
      const end = this.#at
      this.#at = start
      this.#readEvent(end)
      return true
    }
    return false
  }

  number(field: number): number {
    return this.#numbers[field] ?? 0
  }

  text(field: number): string {
    const start = this.#starts[field] ?? 0
    const end = this.#ends[field] ?? 0
    return start === end ? "" : this.#bytes.toString("utf8", start, end)
  }

  #readEvent(end: number): void {
    this.kind = 0
    while (this.#at < end) {
      const tag = this.#varint()
      const start = this.#skip(tag & 7)
      if (tag >>> 3 < firstKind) continue
      const next = this.#at
      this.kind = tag >>> 3
      this.#at = start
      this.#readFields(next)
    }
  }

  #readFields(end: number): void {
    for (let field = 0; field < maxFields; field++) {
      this.#numbers[field] = 0
      this.#ends[field] = this.#starts[field] = 0
    }
    while (this.#at < end) {
      const tag = this.#varint()
      const field = tag >>> 3
      if ((tag & 7) === wireTypes.varint) {
        const value = this.#varint()
        if (field < maxFields) this.#numbers[field] = value
        continue
      }
      const start = this.#skip(tag & 7)
      if (field >= maxFields) continue
      this.#starts[field] = start
      this.#ends[field] = this.#at
    }
  }

  /** Passes over the value of a tag, and returns where its content begins. */
  #skip(wireType: number): number {
    let start = this.#at
    if (wireType === wireTypes.bytes) {
      const length = this.#varint()
      start = this.#at
      this.#at += length
    } else if (wireType === wireTypes.varint) this.#varint()
    else if (wireType === wireTypes.fixed64) this.#at += 8
    else if (wireType === wireTypes.fixed32) this.#at += 4
    else throw broken(start)
    if (this.#at > this.#bytes.length) throw broken(start)
    return start
  }

  #varint(): number {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw broken(this.#at)
      value += (byte & 127) * factor
      if (byte < 128) return value
    }
  }
}

function broken(at: number): Error {
  return new Error(`the entries of a journal row are broken at byte ${at}`)
}
