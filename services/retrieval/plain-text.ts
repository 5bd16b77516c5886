import type { SourceBlock } from "./document-text.ts"

/** Plain text has no structure but its blank lines: what stands between them is a paragraph. */
export function* readPlainText(content: string): Generator<SourceBlock> {
  for (const text of content.split(/\n[^\S\n]*(?:\n[^\S\n]*)+/)) yield { kind: "paragraph", text }
}
