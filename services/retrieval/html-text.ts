import { type DefaultTreeAdapterTypes, parse } from "parse5"
import type { BlockKind, SourceBlock } from "./document-text.ts"

type Node = DefaultTreeAdapterTypes.ChildNode
type Element = DefaultTreeAdapterTypes.Element

/** Deepest nesting that is read; deeper content is taken as the text of its ancestor. */
const maxDepth = 200
const longestAnchor = 500

const skipped = new Set(
  "head script style template noscript iframe object svg math nav select button dialog".split(" "),
)
const blockTags = new Set(
  "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html li main ol p pre section summary table ul caption".split(
    " ",
  ),
)

/**
 * Reads HTML, whole pages and fragments alike. Scripts, styles, navigation and what the page hides
 * (`hidden`, `aria-hidden`, `display: none`) are left out: nobody who looks at the page sees it, so
 * no citation should.
 */
export function* readHtml(content: string): Generator<SourceBlock> {
  const blocks = new BlockWriter()
  walk(parse(content).childNodes, blocks, "paragraph", 0)
  blocks.end()
  yield* blocks.written
}

/** Collects inline text until a block ends. */
class BlockWriter {
  readonly written: SourceBlock[] = []
  #parts: string[] = []
  #kind: BlockKind = "paragraph"
  #level = 0
  #anchor = ""
  #nextAnchor = ""

  /** Names the place that comes next. */
  pass(anchor: string): void {
    this.#nextAnchor = anchor
  }

  begin(kind: BlockKind, level = 0): void {
    this.end()
    this.#kind = kind
    this.#level = level
  }

  add(text: string): void {
    if (this.#parts.length === 0) this.#anchor = this.#nextAnchor
    this.#parts.push(text)
  }

  end(): void {
    const joined = this.#parts.join("")
    const isKept = this.#kind === "code" || this.#kind === "table"
    const text = isKept ? joined : collapse(joined)
    if (text.trim() !== "")
      this.written.push({ kind: this.#kind, text, level: this.#level, anchor: this.#anchor })
    this.#parts = []
    this.#kind = "paragraph"
    this.#level = 0
  }
}

function walk(nodes: readonly Node[], blocks: BlockWriter, inner: BlockKind, depth: number): void {
  for (const node of nodes) {
    if ("value" in node) blocks.add(node.value)
    else if ("tagName" in node && !isSkipped(node)) walkElement(node, blocks, inner, depth + 1)
  }
}

function walkElement(node: Element, blocks: BlockWriter, inner: BlockKind, depth: number): void {
  const anchor = anchorOf(node)
  if (anchor !== undefined) blocks.pass(anchor)
  const heading = /^h([1-6])$/.exec(node.tagName)
  if (heading !== null) {
    const within = findAnchor(node)
    if (within !== undefined) blocks.pass(within)
    writeBlock(blocks, "heading", collapse(textOf(node)), Number(heading[1]))
  } else if (node.tagName === "pre") {
    writeBlock(blocks, "code", textOf(node))
  } else if (node.tagName === "table" && depth < maxDepth) {
    writeTable(node, blocks)
  } else if (node.tagName === "br") {
    blocks.add("\n")
  } else if (depth >= maxDepth) {
    blocks.add(textOf(node))
  } else if (node.tagName === "li") {
    blocks.begin("item")
    blocks.add("- ")
    walk(unwrapParagraph(node), blocks, "item", depth)
    blocks.end()
  } else if (blockTags.has(node.tagName)) {
    blocks.begin(node.tagName === "dt" ? "item" : inner === "item" ? "paragraph" : inner)
    walk(node.childNodes, blocks, inner, depth)
    blocks.end()
  } else {
    walk(node.childNodes, blocks, inner, depth)
  }
}

function writeBlock(blocks: BlockWriter, kind: BlockKind, text: string, level = 0): void {
  blocks.begin(kind, level)
  blocks.add(text)
  blocks.end()
}

/** `<li><p>text</p>…` is the same item as `<li>text…`. */
function unwrapParagraph(item: Element): readonly Node[] {
  const nodes = item.childNodes.filter((node) => !("value" in node) || node.value.trim() !== "")
  const [first, ...rest] = nodes
  if (first !== undefined && "tagName" in first && first.tagName === "p")
    return [...first.childNodes, ...rest]
  return item.childNodes
}

/** A table of data is one block, a line per row; one that lays the page out is read as its cells. */
function writeTable(table: Element, blocks: BlockWriter): void {
  const rows: string[] = []
  const pending: Element[] = [table]
  for (let element = pending.pop(); element !== undefined; element = pending.pop()) {
    if (element.tagName === "tr") {
      const cells = elementsOf(element).map((cell) => collapse(textOf(cell)).replaceAll("\n", " "))
      const row = cells.join(" | ").trim()
      if (row.replaceAll("|", "").trim() !== "") rows.push(row)
    } else if (element.tagName === "caption") {
      rows.push(collapse(textOf(element)))
    } else if (!isSkipped(element)) {
      pending.push(...elementsOf(element).reverse())
    }
  }
  writeBlock(blocks, "table", rows.join("\n"))
}

function elementsOf(element: Element): Element[] {
  return element.childNodes.filter((node): node is Element => "tagName" in node)
}

/** All visible text below an element, without recursion: the depth of a page is not ours to trust. */
function textOf(element: Element): string {
  const parts: string[] = []
  const pending: Node[] = [...element.childNodes].reverse()
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if ("value" in node) parts.push(node.value)
    else if ("tagName" in node && !isSkipped(node)) {
      if (node.tagName === "br") parts.push("\n")
      if (blockTags.has(node.tagName)) parts.push(" ")
      for (let i = node.childNodes.length - 1; i >= 0; i--) {
        const child = node.childNodes[i]
        if (child !== undefined) pending.push(child)
      }
    }
  }
  return parts.join("")
}

/** What a link can name: an id, or the name of an old anchor. */
function anchorOf({ tagName, attrs }: Element): string | undefined {
  const named = attrs.find(({ name }) => name === "id" || (tagName === "a" && name === "name"))
  const anchor = named?.value.trim() ?? ""
  return anchor === "" || anchor.length > longestAnchor ? undefined : anchor
}

/** The anchor that a heading holds, as in `<h2><a id="…"></a>…`. */
function findAnchor(heading: Element): string | undefined {
  return elementsOf(heading)
    .map((element) => anchorOf(element))
    .find((anchor) => anchor !== undefined)
}

function isSkipped(element: Element): boolean {
  if (skipped.has(element.tagName)) return true
  return element.attrs.some(
    ({ name, value }) =>
      name === "hidden" ||
      (name === "aria-hidden" && value === "true") ||
      (name === "role" && value === "navigation") ||
      (name === "class" && /\bnav(header|footer|bar)\b/.test(value)) ||
      (name === "style" && /display\s*:\s*none|visibility\s*:\s*hidden/i.test(value)),
  )
}

function collapse(text: string): string {
  return text.replace(/\s+/g, " ").trim()
}
