import type { DocumentText, TextBlock } from "./document-text.ts"

/** A stretch of a document that is found and cited as a whole; offsets are UTF-16 units. */
export interface Passage {
  readonly start: number
  readonly end: number
  /** Headings above it, outermost first. */
  readonly headingPath: readonly string[]
  /** As its first block has them. */
  readonly page: number
  readonly anchor: string
}

/** Sizes in UTF-16 units. */
export interface PassageSizes {
  /** A passage takes no further block once it is this long. */
  readonly target: number
  /** Longest passage of running text. */
  readonly longest: number
  /** Longest code or table that is kept whole. */
  readonly longestWhole: number
}

const defaultSizes: PassageSizes = { target: 900, longest: 1500, longestWhole: 4000 }
const maxHeadingLength = 500

interface Piece {
  readonly start: number
  readonly end: number
  readonly block: TextBlock
}

/**
 * Cuts a document into passages, in order, without overlap, so that everything but the white space
 * between blocks is in exactly one. A passage stays below one heading, which stands at its start, and
 * on one page.
 */
export function cutPassages(
  document: DocumentText,
  sizes: PassageSizes = defaultSizes,
): readonly Passage[] {
  const passages: Passage[] = []
  const headings: { level: number; text: string }[] = []
  let open: { start: number; end: number; hasBody: boolean; block: TextBlock } | undefined

  function close(): void {
    if (open === undefined) return
    const headingPath = headings.map((heading) => heading.text)
    const { page, anchor } = open.block
    passages.push({ start: open.start, end: open.end, headingPath, page, anchor })
    open = undefined
  }

  for (const piece of pieces(document, sizes)) {
    const isHeading = piece.block.kind === "heading"
    const size = open === undefined ? 0 : open.end - open.start
    const isFull =
      size >= sizes.target || (open !== undefined && piece.end - open.start > limitOf(piece, sizes))
    const isEnough = isHeading ? open?.hasBody === true || isFull : open?.hasBody === true && isFull
    if (isEnough || open?.block.page !== piece.block.page) close()
    if (isHeading) enterHeading(headings, piece, document.text)
    const { start, end, block } = piece
    if (open === undefined) open = { start, end, hasBody: !isHeading, block }
    else open = { ...open, end, hasBody: open.hasBody || !isHeading }
  }
  close()
  return passages
}

function limitOf(piece: Piece, sizes: PassageSizes): number {
  const isWhole = piece.block.kind === "code" || piece.block.kind === "table"
  return isWhole ? sizes.longestWhole : sizes.longest
}

function enterHeading(headings: { level: number; text: string }[], piece: Piece, text: string) {
  const { level, start } = piece.block
  if (piece.start !== start) return
  while ((headings.at(-1)?.level ?? 0) >= level) headings.pop()
  const heading = text.slice(start, piece.block.end).replace(/\s+/g, " ")
  headings.push({ level, text: clip(heading, maxHeadingLength) })
}

/** The blocks, each cut into pieces that fit. */
function* pieces(document: DocumentText, sizes: PassageSizes): Generator<Piece> {
  for (const block of document.blocks) {
    const isWhole = block.kind === "code" || block.kind === "table"
    const longest = isWhole ? sizes.longestWhole : sizes.longest
    let start = block.start
    while (block.end - start > longest) {
      const end = cutAt(document.text, start, start + sizes.longest, isWhole)
      yield { start, end: trimEnd(document.text, start, end), block }
      start = skipSpace(document.text, end, block.end)
    }
    if (start < block.end) yield { start, end: block.end, block }
  }
}

/** The best place to cut before `limit`: after a line, a sentence, a word, else between code points. */
function cutAt(text: string, start: number, limit: number, isWhole: boolean): number {
  const half = start + (limit - start) / 2
  const lineBreak = text.lastIndexOf("\n", limit - 1)
  if (lineBreak > half) return lineBreak + 1
  const window = text.slice(start, limit)
  if (!isWhole) {
    const sentence = /^[\s\S]*[.!?。！？؟][)"'”’\]]*(?:\s|(?<=[。！？]))/u.exec(window)
    if (sentence !== null && start + sentence[0].length > half) return start + sentence[0].length
  }
  const space = Math.max(
    window.lastIndexOf(" "),
    window.lastIndexOf("\n"),
    window.lastIndexOf("\t"),
  )
  if (start + space > half) return start + space + 1
  return isLowSurrogate(text, limit) ? limit - 1 : limit
}

function trimEnd(text: string, start: number, end: number): number {
  let at = end
  while (at > start + 1 && isSpace(text, at - 1)) at--
  return at
}

function skipSpace(text: string, start: number, end: number): number {
  let at = start
  while (at < end && isSpace(text, at)) at++
  return at
}

function isSpace(text: string, at: number): boolean {
  return /\s/.test(text.charAt(at))
}

function isLowSurrogate(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  return unit >= 0xdc00 && unit <= 0xdfff
}

function clip(text: string, length: number): string {
  if (text.length <= length) return text
  return text.slice(0, isLowSurrogate(text, length) ? length - 1 : length)
}
