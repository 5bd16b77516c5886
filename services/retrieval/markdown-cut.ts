/**
 * Cuts Markdown where a new top-level block certainly begins, so that plain blocks need no parser and
 * the parser, whose time grows faster than its input, gets little at a time.
 *
 * Certain is: a line that follows a blank line, is indented by less than an item of a list can be, and
 * opens no quote or numbered list ends whatever was open before it; so does a heading, and so does a
 * code fence, that is not indented.
 * From the first line on that makes this doubtful (an indented fence, HTML that outlives blank lines)
 * nothing is known any more. A definition of a link or footnote has its effect everywhere, so a
 * document that has one is not cut at all.
 */

/** A stretch of Markdown: `plain` blocks need no parser, the rest does. */
export type Cut =
  | { readonly kind: "heading"; readonly level: number; readonly text: string }
  | { readonly kind: "paragraph" | "item" | "code"; readonly text: string }
  | { readonly kind: "markdown"; readonly text: string }

/** Markdown for the parser is handed over from this length on, or when a plain block follows. */
const enough = 8 * 1024
/** Longest stretch for the parser; a block that is longer is read in parts. */
export const longestStretch = 32 * 1024

const definition = /^[ \t>*+\-\d.)]*\[[^\]\n]+\]:/m
const fence = /^(`{3,}(?=[^`]*$)|~{3,})/
const hiddenFence = /^[ \t>*+\-\d.)]+(?:```|~~~)/
const lastingHtml = /^[ \t>*+\-\d.)]*<(?:script|pre|style|textarea|[!?])/i
const html = /^[ \t>*+\-\d.)]*</
/** What begins a block after a blank line: text, or an item of a list without numbers. */
const beginning = /^ ?(?=\S)(?![>*+-]|\d+[.)])|^ ?[*+-] /
const item = /^ ?[*+-] {1,3}(?=[^\s[])/
const atxHeading = /^(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?[ \t]*$/
/** A line that is more than the text of a paragraph. */
const marked = /^(?:[ \t]*(?:[>*+<|:#=]|-|\d+[.)]|`{3}|~{3})|[ \t]{4}|\t)/
/** Markup within a line, save for marks that have meaning only in pairs. */
const inlineMarkup =
  /\\(?:[!-/:-@[-`{-~]|$)|<[A-Za-z/!?]|&(?:#|[A-Za-z])[^;\s]*;|\]\(|[\0\uFFFD]|(?:https?:|www\.)\S*[_*~]/m
const pairedMarks = [
  /`+/g,
  /(?<![\p{L}\p{N}_])_+|_+(?![\p{L}\p{N}_])/gu,
  /(?<!\s)\*+|\*+(?!\s)/g,
  /~+/g,
]

/** Cuts Markdown whose line breaks are `\n`. The pieces are all of it, in order. */
export function* cutMarkdown(content: string): Generator<Cut> {
  if (definition.test(content)) {
    yield* stretches(content)
    return
  }
  let pending: string[] = []
  let size = 0
  function* flush(): Generator<Cut> {
    if (pending.length > 0) yield* stretches(pending.join("\n"))
    pending = []
    size = 0
  }
  for (const block of readBlocks(content.split("\n"))) {
    const plain = block.kind === "lines" ? readPlain(block.lines) : [readCode(block.lines)]
    if (plain !== undefined) {
      yield* flush()
      yield* plain
      continue
    }
    if (size >= enough) yield* flush()
    pending.push(...block.lines)
    size += block.lines.reduce((sum, line) => sum + line.length + 1, 0)
  }
  yield* flush()
}

interface Block {
  readonly kind: "lines" | "code"
  readonly lines: readonly string[]
}

/** The lines between two certain places, and code between its fences, which come with it. */
function* readBlocks(lines: readonly string[]): Generator<Block> {
  let start = 0
  let hasHtml = false
  let wasHeading = false
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? ""
    const isHeading = !hasHtml && /^#{1,6}[ \t]/.test(line)
    const isFirst = wasHeading || (lines[at - 1] ?? "").trim() === ""
    wasHeading = isHeading
    if (at > start && (isHeading || (isFirst && beginning.test(line)))) {
      yield { kind: "lines", lines: lines.slice(start, at) }
      start = at
      hasHtml = false
    }
    hasHtml ||= html.test(line)
    const mark = fence.exec(line)?.[1]
    if (hiddenFence.test(line) || lastingHtml.test(line) || (hasHtml && mark !== undefined)) {
      yield { kind: "lines", lines: lines.slice(start) }
      return
    }
    if (mark === undefined) continue
    if (at > start) yield { kind: "lines", lines: lines.slice(start, at) }
    const end = findFenceEnd(lines, at, mark)
    yield { kind: "code", lines: lines.slice(at, end + 1) }
    at = end
    start = end + 1
  }
  if (start < lines.length) yield { kind: "lines", lines: lines.slice(start) }
}

function findFenceEnd(lines: readonly string[], open: number, mark: string): number {
  const close = new RegExp(`^ {0,3}${mark.charAt(0)}{${mark.length},}[ \\t]*$`)
  for (let at = open + 1; at < lines.length; at++) if (close.test(lines[at] ?? "")) return at
  return lines.length
}

function readCode(lines: readonly string[]): Cut {
  const mark = fence.exec(lines[0] ?? "")?.[1] ?? ""
  const last = lines.at(-1) ?? ""
  const isClosed =
    lines.length > 1 && last.trim().length >= mark.length && /^ {0,3}(?:`+|~+)[ \t]*$/.test(last)
  return { kind: "code", text: lines.slice(1, isClosed ? -1 : undefined).join("\n") }
}

/** A heading, a paragraph or a list without markup; undefined where a parser must see it. */
function readPlain(lines: readonly string[]): readonly Cut[] | undefined {
  const filled = lines.slice(0, lines.findLastIndex((line) => line.trim() !== "") + 1)
  const [first = ""] = filled
  const heading = filled.length === 1 ? atxHeading.exec(first) : null
  if (heading !== null) {
    const text = heading[2] ?? ""
    const level = heading[1]?.length ?? 1
    return text === "" || hasInlineMarkup(text) ? undefined : [{ kind: "heading", level, text }]
  }
  const texts: string[][] = []
  const isList = item.test(first)
  for (const line of filled) {
    const text = isList ? line.replace(item, "") : line
    if (text.trim() === "" || marked.test(text)) return undefined
    if (text !== line || texts.length === 0) texts.push([])
    texts.at(-1)?.push(trimSpace(text))
  }
  const joined = texts.map((text) => text.join("\n"))
  if (joined.length === 0 || joined.some(hasInlineMarkup)) return undefined
  return joined.map((text) =>
    isList ? { kind: "item", text: `- ${text}` } : { kind: "paragraph", text },
  )
}

function hasInlineMarkup(text: string): boolean {
  if (inlineMarkup.test(text)) return true
  return pairedMarks.some((mark) => (text.match(mark)?.length ?? 0) > 1)
}

function trimSpace(line: string): string {
  return line.replace(/^[ \t]+|[ \t]+$/g, "")
}

/** Markdown for the parser; what is too long is cut after a blank line, a line, a word. */
function* stretches(text: string): Generator<Cut> {
  let start = 0
  while (text.length - start > longestStretch) {
    const limit = start + longestStretch
    const half = start + longestStretch / 2
    const places = ["\n\n", "\n", " "].map((mark) => text.lastIndexOf(mark, limit - mark.length))
    const place = places.find((at) => at > half)
    const end = place === undefined ? limit - (isLowSurrogate(text, limit) ? 1 : 0) : place + 1
    yield { kind: "markdown", text: text.slice(start, end) }
    start = end
  }
  if (start < text.length) yield { kind: "markdown", text: text.slice(start) }
}

function isLowSurrogate(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  return unit >= 0xdc00 && unit <= 0xdfff
}
