import { toLatin } from "../../mesh/look-alikes.ts"
import { decodedLayers, mayBeEncoded } from "./decoded-text.ts"

// Characters that a reader does not see. Some are no format characters (Hangul fillers, variation
// selectors, the Braille blank), which is why the general category Cf alone does not do.
const invisible = /[\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]/gu
const tagCharacter = /[\u{e0020}-\u{e007e}]/gu
const marks = /[\p{Mn}\p{Me}]/gu
const ascii = /^[\0-\x7f]*$/
const space = /\s+/g

const chunkUnits = 8_192
const lookAheadUnits = 256

/**
 * Normalises for judging: NFKC, invisible characters removed, look-alikes written in Latin, marks
 * removed, every run of white space one space. Case is kept; `foldCase` removes it.
 *
 * Yields between chunks, so that a caller can give way to others on a long text.
 */
export function* normalise(text: string): Generator<undefined, string> {
  return yield* inChunks(text, (chunk) => clean(chunk.replace(invisible, "")))
}

/**
 * What a model may read in a text that hides something: tag characters as the ASCII they stand for,
 * other invisible characters as the spaces they may have replaced. Undefined where nothing hides.
 */
export function* reveal(text: string): Generator<undefined, string | undefined> {
  if (text.search(invisible) < 0) return undefined
  return yield* inChunks(text, (chunk) =>
    clean(
      chunk
        .replace(tagCharacter, (tag) => String.fromCharCode((tag.codePointAt(0) ?? 0) - 0xe0000))
        .replace(invisible, " "),
    ),
  )
}

/** Every form of a text that rules judge, without repeats. */
export interface Forms {
  /** As it is written, which patterns alone look at; undefined where that is normalised already. */
  readonly written: string | undefined
  /** Normalised, with what hides in it, and with each encoding taken off. */
  readonly normalised: readonly string[]
}

/** The forms of a text. Yields between pieces of long ones. */
export function* formsOf(text: string): Generator<undefined, Forms> {
  const normalised = new Set<string>()
  for (const layer of [text, ...(yield* decodedLayers(text))]) {
    normalised.add(yield* normalise(layer))
    const revealed = yield* reveal(layer)
    if (revealed !== undefined) normalised.add(revealed)
  }
  return { written: normalised.has(text) ? undefined : text, normalised: [...normalised] }
}

/**
 * True only for a text that has one form, itself: ASCII characters that are seen, in words with one
 * space between them, and nothing that looks encoded.
 */
export function isPlain(text: string): boolean {
  return isSeenAscii(text) && !mayBeEncoded(text)
}

function isSeenAscii(text: string): boolean {
  let isAfterSpace = true
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at)
    const isSpace = unit === 0x20
    if (unit < 0x20 || unit > 0x7e || (isSpace && isAfterSpace)) return false
    isAfterSpace = isSpace
  }
  return !isAfterSpace
}

/** Removes what is left of case after `normalise`; the one mark that lower case adds goes too. */
export function foldCase(normalised: string): string {
  return normalised.toLowerCase().replaceAll("\u0307", "")
}

function clean(text: string): string {
  if (ascii.test(text)) return text
  const latin = toLatin(text.normalize("NFKC").replace(invisible, ""))
  return toLatin(latin.normalize("NFD").replace(marks, "").normalize("NFC"))
}

function* inChunks(
  text: string,
  change: (chunk: string) => string,
): Generator<undefined, string, undefined> {
  if (text.length <= chunkUnits) return collapse(change(text)).trim()
  const changed: string[] = []
  let endsInSpace = true
  for (let start = 0; start < text.length; ) {
    const end = cutAfter(text, start + chunkUnits)
    const chunk = collapse(change(text.slice(start, end)))
    const joined: string = endsInSpace && chunk.startsWith(" ") ? chunk.slice(1) : chunk
    if (joined !== "") {
      changed.push(joined)
      endsInSpace = joined.endsWith(" ")
    }
    start = end
    yield
  }
  return changed.join("").trimEnd()
}

function collapse(text: string): string {
  return text.replace(space, " ")
}

// Before an ASCII character nothing composes, so cutting there changes no result; a text that has
// none within reach is cut between code points.
function cutAfter(text: string, near: number): number {
  if (near >= text.length) return text.length
  for (let at = near; at < Math.min(near + lookAheadUnits, text.length); at += 1) {
    if (text.charCodeAt(at) < 0x80) return at
  }
  const unit = text.charCodeAt(near)
  return unit >= 0xdc00 && unit <= 0xdfff ? near + 1 : near
}
