import { hash } from "node:crypto"
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import canonicalize from "canonicalize"

/**
 * The RFC 8785 form of a JSON value: the same bytes for the same value, whatever the order of its
 * keys. Throws a TypeError for what JSON cannot hold (undefined, NaN, a lone surrogate): a missing
 * value must never share a digest with null. A member that is undefined counts as absent.
 */
export function canonicalJson(value: JsonValue): string {
  const text = serialise(value)
  if (text === undefined) throw new TypeError("the value has no canonical JSON form")
  if (!text.isWellFormed()) throw new TypeError("the value holds a lone surrogate")
  return text
}

/** SHA-256 (64 lower-case hex digits) of the canonical JSON of a value. */
export function digestOf(value: JsonValue): string {
  return hash("sha256", canonicalJson(value), "hex")
}

/** SHA-256 (hex) of the canonical JSON of an object, such as the arguments of a tool call. */
export function digestOfStruct(struct: JsonObject): string {
  return digestOf(struct)
}

/** What the quick way leaves to the library. */
const unusual = Symbol("unusual")
const maxQuickDepth = 32
/** No quotation mark, no backslash, no control character. */
const needsNoEscape = /^[ !#-[\]-\uffff]*$/

function serialise(value: JsonValue): string | undefined {
  const quick = serialisePlain(value, 0)
  if (quick !== unusual) return quick
  try {
    return canonicalize(value)
  } catch (cause) {
    throw new TypeError("the value has no canonical JSON form", { cause })
  }
}

/** The same for what nearly all values are: plain objects and arrays, not deep, of what JSON knows. */
function serialisePlain(value: unknown, depth: number): string | typeof unusual {
  switch (typeof value) {
    case "string":
      if (!value.isWellFormed()) return unusual
      return needsNoEscape.test(value) ? `"${value}"` : JSON.stringify(value)
    case "number":
      return Number.isFinite(value) ? String(value) : unusual
    case "boolean":
      return value ? "true" : "false"
    case "object":
      if (value === null) return "null"
      if (depth === maxQuickDepth) return unusual
      return Array.isArray(value) ? serialiseArray(value, depth) : serialiseObject(value, depth)
    default:
      return unusual
  }
}

function serialiseArray(items: readonly unknown[], depth: number): string | typeof unusual {
  if ("toJSON" in items) return unusual
  let text = "["
  for (let at = 0; at < items.length; at += 1) {
    const item = serialisePlain(items[at], depth + 1)
    if (item === unusual) return unusual
    text += at === 0 ? item : `,${item}`
  }
  return `${text}]`
}

function serialiseObject(value: object, depth: number): string | typeof unusual {
  const prototype: unknown = Object.getPrototypeOf(value)
  if ((prototype !== Object.prototype && prototype !== null) || "toJSON" in value) return unusual
  let text = "{"
  // The default order of sort is that of UTF-16 code units, which is the one that is asked for.
  for (const key of Object.keys(value).sort()) {
    const member: unknown = Reflect.get(value, key)
    if (member === undefined) continue
    const name = serialisePlain(key, depth)
    const written = serialisePlain(member, depth + 1)
    if (name === unusual || written === unusual) return unusual
    text += text === "{" ? `${name}:${written}` : `,${name}:${written}`
  }
  return `${text}}`
}
