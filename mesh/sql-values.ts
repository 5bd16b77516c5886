const textNeedingEscape = /["\\]/
const escaped = /["\\]/g
const byteaOid = 17

/**
 * A parameter as Postgres takes it: text, or bytes for what has no shorter text. Arrays of bytes go
 * in binary, which spares both sides a detour over hexadecimal digits twice their length.
 */
export function toSqlValue(value: unknown): string | Buffer | null {
  if (value === null || value === undefined) return null
  switch (typeof value) {
    case "string":
      return value
    case "number":
    case "bigint":
    case "boolean":
      return String(value)
    case "object":
      return toSqlObject(value)
    default:
      throw new TypeError(`a ${typeof value} cannot be a parameter of a statement`)
  }
}

function toSqlObject(value: object): string | Buffer {
  if (value instanceof Uint8Array) return toBuffer(value)
  if (Array.isArray(value)) return isBytesArray(value) ? toByteaArray(value) : toArrayText(value)
  return value instanceof Date ? value.toISOString() : JSON.stringify(value)
}

function isBytesArray(items: readonly unknown[]): items is readonly (Uint8Array | null)[] {
  return (
    items.some((item) => item instanceof Uint8Array) &&
    items.every((item) => item === null || item instanceof Uint8Array)
  )
}

/** The text form of an array of anything but bytes. */
function toArrayText(items: readonly unknown[]): string {
  let text = "{"
  for (let i = 0; i < items.length; i++) {
    if (i > 0) text += ","
    const item: unknown = items[i]
    if (item === null || item === undefined) text += "NULL"
    else if (Array.isArray(item)) text += toArrayText(item)
    else text += quote(item)
  }
  return `${text}}`
}

function quote(item: unknown): string {
  const value = toSqlValue(item)
  if (typeof value !== "string") return `"\\\\x${value?.toString("hex") ?? ""}"`
  return `"${textNeedingEscape.test(value) ? value.replace(escaped, "\\$&") : value}"`
}

/** The binary form of a one-dimensional `bytea[]`: a header, then every item after its length. */
function toByteaArray(items: readonly (Uint8Array | null)[]): Buffer {
  const length = items.reduce((sum, item) => sum + 4 + (item?.length ?? 0), 20)
  const bytes = Buffer.allocUnsafe(length)
  bytes.writeInt32BE(1, 0)
  bytes.writeInt32BE(items.includes(null) ? 1 : 0, 4)
  bytes.writeInt32BE(byteaOid, 8)
  bytes.writeInt32BE(items.length, 12)
  bytes.writeInt32BE(1, 16)
  let offset = 20
  for (const item of items) {
    offset = bytes.writeInt32BE(item?.length ?? -1, offset)
    if (item === null) continue
    bytes.set(item, offset)
    offset += item.length
  }
  return bytes
}

function toBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
