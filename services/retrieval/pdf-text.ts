import type { getDocumentProxy } from "unpdf"
import type { SourceBlock } from "./document-text.ts"
import { UnreadableContent } from "./unreadable.ts"

type Pdf = Awaited<ReturnType<typeof getDocumentProxy>>

/** A line as it stands on its page; lengths are in points. */
interface Line {
  readonly text: string
  readonly size: number
  /** Distance of its foot from that of the page. */
  readonly y: number
}

const mostPages = 2_000
/** A line that is so much larger than the running text is a heading. */
const headingRatio = 1.15
const longestHeading = 200
/** Lines further apart than this many times their size are of two paragraphs. */
const paragraphGap = 1.7

/**
 * Reads the text of a PDF page by page, in the order in which the file draws it. What stands in larger
 * letters than most of the text is a heading. Pictures are not read: scanned pages have no text.
 */
export async function readPdf(data: Uint8Array): Promise<readonly SourceBlock[]> {
  const pdf = await openPdf(data)
  try {
    if (pdf.numPages > mostPages)
      throw new UnreadableContent(`it has ${pdf.numPages} pages; at most ${mostPages} are read`)
    const pages: (readonly Line[])[] = []
    for (let number = 1; number <= pdf.numPages; number++) pages.push(await readLines(pdf, number))
    const lines = pages.flat()
    if (lines.length === 0)
      throw new UnreadableContent("it has no text; pictures of text are not read")
    const body = mostUsedSize(lines)
    const larger = new Set(
      lines.map(({ size }) => size).filter((size) => size >= body * headingRatio),
    )
    const levels = new Map([...larger].sort((a, b) => b - a).map((size, rank) => [size, rank + 1]))
    return pages.flatMap((page, index) => [...toBlocks(page, levels, index + 1)])
  } finally {
    await pdf.loadingTask.destroy()
  }
}

async function openPdf(data: Uint8Array): Promise<Pdf> {
  const { getDocumentProxy } = await import("unpdf")
  try {
    return await getDocumentProxy(data, { disableFontFace: true, verbosity: 0 })
  } catch (error) {
    const isLocked = error instanceof Error && error.name === "PasswordException"
    throw new UnreadableContent(
      isLocked ? "it is protected by a password" : "it is no PDF, or a broken one",
    )
  }
}

async function readLines(pdf: Pdf, number: number): Promise<readonly Line[]> {
  const page = await pdf.getPage(number).catch(() => {
    throw new UnreadableContent(`its page ${number} is broken`)
  })
  const { items } = await page.getTextContent()
  const lines: Line[] = []
  let parts: string[] = []
  let place: { readonly size: number; readonly y: number } | undefined
  const endLine = () => {
    const text = parts.join("").replace(/\s+/g, " ").trim()
    if (text !== "" && place !== undefined) lines.push({ text, ...place })
    parts = []
    place = undefined
  }
  for (const item of items) {
    if (!("str" in item)) continue
    parts.push(storable(item.str))
    if (item.str.trim() !== "") place ??= placeOf(item.transform)
    if (item.hasEOL) endLine()
  }
  endLine()
  page.cleanup()
  return lines
}

function placeOf(transform: readonly number[]) {
  const [, , c = 0, d = 0, , y = 0] = transform
  return { size: Math.round(Math.hypot(c, d) * 2) / 2, y }
}

/** Fonts may map letters to anything; a text holds neither NUL nor half a character. */
function storable(text: string): string {
  return text.replaceAll("\0", "").toWellFormed()
}

function mostUsedSize(lines: readonly Line[]): number {
  const used = new Map<number, number>()
  for (const { size, text } of lines) used.set(size, (used.get(size) ?? 0) + text.length)
  return [...used].reduce((best, one) => (one[1] > best[1] ? one : best), [0, 0])[0]
}

function* toBlocks(
  lines: readonly Line[],
  levels: ReadonlyMap<number, number>,
  page: number,
): Generator<SourceBlock> {
  let open: Line[] = []
  const close = (): SourceBlock[] => {
    const [first] = open
    if (first === undefined) return []
    const text = joinLines(open.map((line) => line.text))
    const level = levels.get(first.size)
    open = []
    if (level === undefined || text.length > longestHeading)
      return [{ kind: "paragraph", text, page }]
    return [{ kind: "heading", text, level: Math.min(level, 6), page }]
  }
  for (const line of lines) {
    const last = open.at(-1)
    if (last !== undefined && !belongsTo(line, last)) yield* close()
    open.push(line)
  }
  yield* close()
}

function belongsTo(line: Line, last: Line): boolean {
  const gap = last.y - line.y
  return line.size === last.size && gap > 0 && gap <= line.size * paragraphGap
}

/** A word that was divided at the end of a line is one word again. */
function joinLines(lines: readonly string[]): string {
  return lines
    .join("\n")
    .replace(/(?<=\p{Ll})-\n(?=\p{Ll})/gu, "")
    .replaceAll("\n", " ")
}
