/**
 * What a text says to whoever decodes it: percent signs, HTML entities, escapes of string literals and
 * base64, also one within another. A model reads through all of them, so rules judge what is behind.
 */
import { isUtf8 } from "node:buffer"
import { decodeHTML } from "entities"
import type { Steps } from "./slices.ts"

/** As many encodings are taken off, one after the other. */
export const maxLayers = 3

const percent = /(?:%[0-9a-f]{2})+/gi
const escaped = /\\(?:u\{([0-9a-f]{1,6})\}|u([0-9a-f]{4})|x([0-9a-f]{2})|([nrt"'\\/]))/gi
const controls: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" }
const base64 = /[A-Za-z0-9+/_-]{20,}={0,2}/g
const encoded =
  /%[0-9a-f]{2}|&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});|\\(?:u\{?[0-9a-f]{2}|x[0-9a-f]{2}|[nrt"'\\/])|[A-Za-z0-9+/_-]{20}/i
const unseen = /[^\P{Cc}\n\r\t]/u

/** False only for a text that holds nothing which looks encoded. */
export function mayBeEncoded(text: string): boolean {
  return encoded.test(text)
}

/**
 * The text with each layer of encoding taken off in turn, the outermost first; none where nothing is
 * encoded. A layer is no longer than the one before it. Yields between layers.
 */
export function* decodedLayers(text: string): Steps<readonly string[]> {
  const layers: string[] = []
  let current = text
  while (layers.length < maxLayers && mayBeEncoded(current)) {
    const decoded = decodeOnce(current)
    if (decoded === current) break
    layers.push(decoded)
    current = decoded
    yield
  }
  return layers
}

function decodeOnce(text: string): string {
  const plain = decodeHTML(text.replace(percent, decodePercent).replace(escaped, decodeEscape))
  return plain === text ? text.replace(base64, decodeBase64) : plain
}

function decodePercent(run: string): string {
  const bytes = Buffer.from(run.replaceAll("%", ""), "hex")
  return isUtf8(bytes) ? bytes.toString("utf8") : run
}

function decodeEscape(whole: string, ...parts: readonly (string | undefined)[]): string {
  const [braced, four, two, letter] = parts
  if (letter !== undefined) return controls[letter] ?? letter
  const code = Number.parseInt(braced ?? four ?? two ?? "", 16)
  return code <= 0x10ffff ? String.fromCodePoint(code) : whole
}

/** Bytes that are text, and all of it seen; anything else was no base64, or holds no words. */
function decodeBase64(run: string): string {
  const bytes = Buffer.from(run, "base64")
  if (!isUtf8(bytes)) return run
  const text = bytes.toString("utf8")
  return unseen.test(text) ? run : text
}
