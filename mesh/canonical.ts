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

function serialise(value: JsonValue): string | undefined {
  try {
    return canonicalize(value)
  } catch (cause) {
    throw new TypeError("the value has no canonical JSON form", { cause })
  }
}
