import type { DocumentText, TextBlock } from "./document-text.ts"

/**
 * Plain text is its own document, unchanged, so that offsets are those of the content as it was sent.
 * It has no structure but its blank lines: what stands between them is a paragraph.
 */
export function readPlainText(text: string): DocumentText {
  const blocks: TextBlock[] = []
  const add = (from: number, to: number) => {
    const raw = text.slice(from, to)
    const start = from + (raw.length - raw.trimStart().length)
    const end = from + raw.trimEnd().length
    const place = { level: 0, page: 0, anchor: "" }
    if (start < end) blocks.push({ kind: "paragraph", start, end, ...place })
  }
  let from = 0
  for (const gap of text.matchAll(/\n[^\S\n]*(?:\n[^\S\n]*)+/g)) {
    add(from, gap.index)
    from = gap.index + gap[0].length
  }
  add(from, text.length)
  return { text, blocks }
}
