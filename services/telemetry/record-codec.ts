/**
 * The entries of a record as bytes: a varint with their number, the earliest time in microseconds,
 * then each entry, then the texts that entries name by their place.
 *
 * An entry is its event id (16 bytes), its kind and whether it is marked or has amounts (1 byte), and
 * varints: microseconds after the earliest, step, milliseconds, places of state, reason, name and
 * about, and the three amounts where it has them. A text is its length and its UTF-8. Written by hand, for a record is written per run: JSON
 * is twice as long, and its bytes are what storing costs. Migration 0003 writes the same form.
 */
import type { Amounts, Entry, EntryKind } from "./run-record.ts"

const kinds: readonly EntryKind[] = [
  "run",
  "tool_call",
  "moderation",
  "approval",
  "resource",
  "budget",
]
const markedBit = 0x80
const amountsBit = 0x40
const kindBits = 0x3f
const maxVarintBytes = 8
/** Id, kind, and ten varints. */
const maxEntryBytes = 17 + 10 * maxVarintBytes
const maxBytesOfUnit = 3

/** Writes the records of one statement, in one piece of memory as far as it was foreseen. */
export function createRecordWriter(capacity: number): (entries: readonly Entry[]) => Buffer {
  let buffer = Buffer.allocUnsafe(capacity)
  let start = 0
  let at = 0
  const texts: string[] = []

  function reserve(size: number): void {
    if (at + size <= buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(buffer.length, 2 * (at - start + size)))
    buffer.copy(larger, 0, start, at)
    buffer = larger
    at -= start
    start = 0
  }

  function varint(value: number): void {
    let rest = value
    while (rest > 127) {
      buffer[at++] = (rest % 128) | 128
      rest = Math.floor(rest / 128)
    }
    buffer[at++] = rest
  }

  /** Few different texts are in a record, and mostly the very same object. */
  function placeOf(text: string): number {
    const place = texts.indexOf(text)
    return place === -1 ? texts.push(text) - 1 : place
  }

  function id(text: string): void {
    for (let index = 0; index < 36; index += 2) {
      if (text.charCodeAt(index) === dash) index += 1
      const high = nibbles[text.charCodeAt(index)] ?? 0
      buffer[at++] = (high << 4) | (nibbles[text.charCodeAt(index + 1)] ?? 0)
    }
  }

  return (entries) => {
    start = at
    texts.length = 0
    reserve(2 * maxVarintBytes)
    let earliest = Number.POSITIVE_INFINITY
    for (const { micros } of entries) earliest = Math.min(earliest, micros)
    varint(entries.length)
    varint(earliest)
    for (const entry of entries) {
      reserve(maxEntryBytes)
      id(entry.eventId)
      const { amounts } = entry
      buffer[at++] =
        kinds.indexOf(entry.kind) |
        (entry.isMarked ? markedBit : 0) |
        (amounts === undefined ? 0 : amountsBit)
      varint(entry.micros - earliest)
      varint(entry.stepIndex)
      varint(entry.millis)
      varint(placeOf(entry.state))
      varint(placeOf(entry.reason))
      varint(placeOf(entry.name))
      varint(placeOf(entry.about))
      if (amounts !== undefined) for (const amount of amounts) varint(amount)
    }
    for (const text of texts) {
      reserve(maxVarintBytes + maxBytesOfUnit * text.length)
      varint(Buffer.byteLength(text))
      at += buffer.write(text, at)
    }
    return buffer.subarray(start, at)
  }
}

export function readEntries(bytes: Buffer): readonly Entry[] {
  let at = 0

  function varint(): number {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes.readUInt8(at++)
      value += (byte & 127) * factor
      if (byte < 128) return value
    }
  }

  function readAmounts(): Amounts {
    return [varint(), varint(), varint()]
  }

  const count = varint()
  const earliest = varint()
  const read = Array.from({ length: count }, () => {
    const eventId = readId(bytes, at)
    const kind = bytes.readUInt8(at + 16)
    at += 17
    return {
      eventId,
      kind,
      micros: earliest + varint(),
      stepIndex: varint(),
      millis: varint(),
      places: [varint(), varint(), varint(), varint()] as const,
      amounts: (kind & amountsBit) === 0 ? undefined : readAmounts(),
    }
  })
  const texts: string[] = []
  while (at < bytes.length) {
    const length = varint()
    texts.push(bytes.toString("utf8", at, at + length))
    at += length
  }
  return read.map(({ kind, places: [state, reason, name, about], ...rest }) => ({
    ...rest,
    kind: known(kinds[kind & kindBits]),
    isMarked: (kind & markedBit) !== 0,
    state: known(texts[state]),
    reason: known(texts[reason]),
    name: known(texts[name]),
    about: known(texts[about]),
  }))
}

const dash = "-".charCodeAt(0)
const nibbles = Uint8Array.from({ length: 128 }, (_, code) => {
  const value = Number.parseInt(String.fromCharCode(code), 16)
  return Number.isNaN(value) ? 0 : value
})

function readId(bytes: Buffer, at: number): string {
  const hex = bytes.toString("hex", at, at + 16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

function known<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the entries of a record are broken")
  return value
}
