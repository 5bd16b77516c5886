/** What a stretch of a document is; decides where a passage may be cut. */
export type BlockKind = "heading" | "paragraph" | "item" | "code" | "table"

/** One stretch of a document as a reader of some format found it. */
export interface SourceBlock {
  readonly kind: BlockKind
  readonly text: string
  /** Depth of a heading, from 1; absent for everything else. */
  readonly level?: number
  /** The page it begins on, from 1, where the format has pages. */
  readonly page?: number
  /** The nearest anchor at or before it, where the format has anchors. */
  readonly anchor?: string
}

/** A block in its place: offsets are UTF-16 units of the document's text. */
export interface TextBlock {
  readonly kind: BlockKind
  readonly start: number
  readonly end: number
  readonly level: number
  readonly page: number
  readonly anchor: string
}

/** The plain text of a document with its block structure. Between blocks there are only line breaks. */
export interface DocumentText {
  readonly text: string
  readonly blocks: readonly TextBlock[]
}

/** Lays the blocks of a source out as one text; what is empty leaves nothing behind. */
export function toDocumentText(source: Iterable<SourceBlock>): DocumentText {
  const parts: string[] = []
  const blocks: TextBlock[] = []
  let length = 0
  let previous: BlockKind | undefined
  for (const { kind, text: raw, level = 0, page = 0, anchor = "" } of source) {
    const text = kind === "code" ? trimLines(raw) : raw.trim()
    if (text === "") continue
    if (previous !== undefined) {
      const separator = previous === "item" && kind === "item" ? "\n" : "\n\n"
      parts.push(separator)
      length += separator.length
    }
    parts.push(text)
    blocks.push({ kind, start: length, end: length + text.length, level, page, anchor })
    length += text.length
    previous = kind
  }
  return { text: parts.join(""), blocks }
}

/** One kind of line break, so that offsets do not depend on the system that wrote the content. */
export function normaliseLineBreaks(content: string): string {
  return content.replace(/\r\n?/g, "\n")
}

/** Drops blank lines around code, and keeps its indentation. */
function trimLines(code: string): string {
  const lines = code.split("\n")
  const isFilled = (line: string) => line.trim() !== ""
  const first = lines.findIndex(isFilled)
  const last = lines.findLastIndex(isFilled)
  return first < 0 ? "" : lines.slice(first, last + 1).join("\n")
}
