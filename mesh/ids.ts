/**
 * Owns: the time and the counter of the last id, and random numbers that were drawn in advance.
 *
 * 1. Ids of one process ascend: those of one millisecond by a counter of 32 bits, which begins at
 *    random in its lower half, and a clock that is set back does not set them back.
 * 2. Every id has 42 random bits of its own besides.
 */
import { randomFillSync } from "node:crypto"

/** Drawn at once, because a call to the source of randomness costs more than the rest of an id. */
const drawn = new Uint32Array(1_024)
const hexOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"))

let used = drawn.length
let millis = 0
let time = ""
let counter = 0

/** A new UUIDv7: unique, and ordered by the time it was made. */
export function newId(): string {
  const now = Date.now()
  if (now > millis) {
    setTime(now)
    counter = random() >>> 1
  } else if (counter === 0xffff_ffff) {
    setTime(millis + 1)
    counter = random() >>> 1
  } else {
    counter += 1
  }
  const low = random()
  return (
    time +
    hex(0x70 | (counter >>> 28)) +
    hex((counter >>> 20) & 0xff) +
    "-" +
    hex(0x80 | ((counter >>> 14) & 0x3f)) +
    hex((counter >>> 6) & 0xff) +
    "-" +
    hex(((counter & 0x3f) << 2) | (random() & 0x03)) +
    hex(random() & 0xff) +
    hex(low >>> 24) +
    hex((low >>> 16) & 0xff) +
    hex((low >>> 8) & 0xff) +
    hex(low & 0xff)
  )
}

function setTime(to: number): void {
  millis = to
  const digits = to.toString(16).padStart(12, "0")
  time = `${digits.slice(0, 8)}-${digits.slice(8)}-`
}

function random(): number {
  if (used === drawn.length) {
    randomFillSync(drawn)
    used = 0
  }
  const number = drawn[used] ?? 0
  used += 1
  return number
}

function hex(byte: number): string {
  return hexOfByte[byte] ?? ""
}
