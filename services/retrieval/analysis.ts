import { type DocumentText, normaliseLineBreaks, toDocumentText } from "./document-text.ts"
import { readDocx } from "./docx-text.ts"
import { readHtml } from "./html-text.ts"
import { readMarkdown } from "./markdown-text.ts"
import { cutPassages } from "./passage.ts"
import { readPdf } from "./pdf-text.ts"
import { readPlainText } from "./plain-text.ts"
import { readTokens, type Token } from "./tokens.ts"
import { UnreadableContent } from "./unreadable.ts"

export const textTypes = ["text/markdown", "text/plain", "text/html"] as const
export type TextType = (typeof textTypes)[number]

export const binaryTypes = [
  "application/pdf",
  "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
] as const
export type BinaryType = (typeof binaryTypes)[number]

export type MediaType = TextType | BinaryType

/** Content by what it is: characters, or the bytes of a file. */
export type Content =
  | { readonly mediaType: TextType; readonly content: string }
  | { readonly mediaType: BinaryType; readonly content: Uint8Array }

export type Source = Content & { readonly title: string }

/** What is stored of a document: its text, its passages and where its tokens stand. */
export interface Analysis {
  readonly text: string
  /** Length of `text` in code points. */
  readonly textLength: number
  /** Words of title and text. */
  readonly wordCount: number
  readonly passages: readonly AnalysedPassage[]
  readonly tokens: readonly TokenPlaces[]
}

/** A passage; offsets are code points of the text, positions count words. */
export interface AnalysedPassage {
  readonly start: number
  readonly end: number
  readonly text: string
  readonly headingPath: readonly string[]
  /** Where the format has them: its page, from 1, else 0; and the anchor before it, else empty. */
  readonly page: number
  readonly anchor: string
  readonly firstPosition: number
}

/** How often and where one token stands in the document. */
export interface TokenPlaces {
  readonly kind: Token["kind"]
  readonly text: string
  readonly titleCount: number
  readonly headingCount: number
  /** How often it opens a line of the text, where definitions stand. */
  readonly leadCount: number
  readonly bodyCount: number
  /** The first positions in the text, ascending. */
  readonly positions: readonly number[]
}

/** Positions that are kept of one token; those after it still count, but not for closeness. */
const maxPositions = 2000

/** Longest text that is kept, in bytes of UTF-8: an answer must hold it. */
const longestText = 2 * 1024 * 1024

/** Reads a document: a pure function of its content, and the costly part of an ingestion. */
export async function analyse(source: Source): Promise<Analysis> {
  return analyseText(source.title, await readDocument(source))
}

function analyseText(title: string, document: DocumentText): Analysis {
  if (Buffer.byteLength(document.text) > longestText)
    throw new UnreadableContent(`its text has more than ${longestText} bytes`)
  const places = new PlaceCounter()
  const titleTokens = readTokens(title)
  for (const token of titleTokens) places.addTitle(token)

  const passages: AnalysedPassage[] = []
  const headings = document.blocks.filter((block) => block.kind === "heading")
  let position = 0
  let codePoints = 0
  let units = 0
  let nextHeading = 0
  for (const passage of cutPassages(document)) {
    const text = document.text.slice(passage.start, passage.end)
    const start = codePoints + countCodePoints(document.text.slice(units, passage.start))
    const end = start + countCodePoints(text)
    const { headingPath, page, anchor } = passage
    passages.push({ start, end, text, headingPath, page, anchor, firstPosition: position })
    const lineStarts = findLineStarts(text)
    for (const token of readTokens(text, position)) {
      const at = passage.start + token.offset
      while (at >= (headings[nextHeading]?.end ?? Number.POSITIVE_INFINITY)) nextHeading++
      const isHeading = at >= (headings[nextHeading]?.start ?? Number.POSITIVE_INFINITY)
      places.add(token, isHeading, lineStarts.has(token.offset))
      position = Math.max(position, token.position + 1)
    }
    codePoints = end
    units = passage.end
  }
  const textLength = codePoints + countCodePoints(document.text.slice(units))
  const wordCount = position + titleTokens.length
  return { text: document.text, textLength, wordCount, passages, tokens: places.all() }
}

export function isTextType(value: string): value is TextType {
  return textTypes.some((type) => type === value)
}

export function isBinaryType(value: string): value is BinaryType {
  return binaryTypes.some((type) => type === value)
}

export function countCodePoints(text: string): number {
  let count = text.length
  for (let i = 0; i + 1 < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit >= 0xd800 && unit <= 0xdbff) count--
  }
  return count
}

async function readDocument(source: Content): Promise<DocumentText> {
  switch (source.mediaType) {
    case "text/markdown":
      return toDocumentText(readMarkdown(normaliseLineBreaks(source.content)))
    case "text/html":
      return toDocumentText(readHtml(normaliseLineBreaks(source.content)))
    case "text/plain":
      return readPlainText(source.content)
    case "application/pdf":
      return toDocumentText(await readPdf(source.content))
    case "application/vnd.openxmlformats-officedocument.wordprocessingml.document":
      return toDocumentText(await readDocx(source.content))
    default:
      return source satisfies never
  }
}

/** Offsets at which a line's own words begin, behind the mark of a list. */
function findLineStarts(text: string): ReadonlySet<number> {
  const starts = new Set<number>()
  for (const line of text.matchAll(/^[^\S\n]*(?:[-*|]|\d+[.)])?[^\p{L}\p{N}\n]*/gmu)) {
    const end = line.index + line[0].length
    starts.add(end)
  }
  return starts
}

interface Places {
  titleCount: number
  headingCount: number
  leadCount: number
  bodyCount: number
  readonly positions: number[]
}

class PlaceCounter {
  readonly #places: Record<Token["kind"], Map<string, Places>> = {
    word: new Map(),
    exact: new Map(),
    keyword: new Map(),
  }

  addTitle(token: Token): void {
    this.#of(token).titleCount++
  }

  add(token: Token, isHeading: boolean, isLead: boolean): void {
    const places = this.#of(token)
    if (isHeading) places.headingCount++
    else if (isLead) places.leadCount++
    else places.bodyCount++
    if (places.positions.length < maxPositions) places.positions.push(token.position)
  }

  all(): TokenPlaces[] {
    const kinds = ["word", "exact", "keyword"] as const
    return kinds.flatMap((kind) =>
      [...this.#places[kind]].map(([text, places]) => ({ kind, text, ...places })),
    )
  }

  #of(token: Token): Places {
    const places = this.#places[token.kind]
    const known = places.get(token.text)
    if (known !== undefined) return known
    const added = { titleCount: 0, headingCount: 0, leadCount: 0, bodyCount: 0, positions: [] }
    places.set(token.text, added)
    return added
  }
}
