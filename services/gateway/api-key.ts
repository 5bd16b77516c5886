/**
 * The form of an API key: `rw_<prefix>_<secret>_<checksum>`.
 *
 * 1. The secret is 256 random bits, so that a plain SHA-256 of the whole key is enough to store.
 * 2. The checksum tells a typo from a key without a query. It is no secret and proves nothing.
 * 3. The prefix is random too and shares nothing with the secret: it may be shown for ever.
 */
import { createHash, randomBytes } from "node:crypto"
import { crc32 } from "node:zlib"

/** A key at the one moment when its text is known. */
export interface MintedKey {
  /** The whole key, as its owner sends it. */
  readonly secret: string
  /** What may be shown of it later. */
  readonly prefix: string
  readonly hash: Buffer
}

/** Makes a new key. */
export function mintKey(): MintedKey {
  const prefix = `rw_${toBase62(randomBytes(8).readBigUInt64BE(), 8)}`
  const body = `${prefix}_${randomBytes(32).toString("base64url")}`
  const secret = `${body}_${checksum(body)}`
  return { secret, prefix, hash: hashKey(secret) }
}

/** Whether a text can be an API key at all: its form and its checksum fit. */
export function isWellFormedKey(text: string): boolean {
  if (!keyPattern.test(text)) return false
  const body = text.slice(0, -(checksumLength + 1))
  return text.slice(-checksumLength) === checksum(body)
}

/** What may be shown of a well-formed key. */
export function prefixOf(key: string): string {
  return key.slice(0, prefixLength)
}

/** What is stored of a key, and what it is found by. */
export function hashKey(key: string): Buffer {
  return createHash("sha256").update(key, "utf8").digest()
}

const prefixLength = 11
const checksumLength = 6
// The secret may hold underscores itself: the parts are told apart by their lengths.
const keyPattern = /^rw_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{43}_[0-9A-Za-z]{6}$/
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

function checksum(body: string): string {
  return toBase62(BigInt(crc32(body)), checksumLength)
}

/** The lowest digits of a number, always as many as asked for. */
function toBase62(value: bigint, length: number): string {
  let rest = value
  let text = ""
  for (let index = 0; index < length; index++) {
    text = base62.charAt(Number(rest % 62n)) + text
    rest /= 62n
  }
  return text
}
