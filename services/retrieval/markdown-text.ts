import type { List, Nodes, PhrasingContent, RootContent, Table } from "mdast"
import { fromMarkdown } from "mdast-util-from-markdown"
import { gfmFromMarkdown } from "mdast-util-gfm"
import { gfm } from "micromark-extension-gfm"
import type { SourceBlock } from "./document-text.ts"
import { readHtml } from "./html-text.ts"
import { cutMarkdown } from "./markdown-cut.ts"

// What the extensions do to the finished tree only makes links of addresses, which changes no text
// and takes 40 % of the time.
const mdastExtensions = gfmFromMarkdown().map(({ transforms: _, ...extension }) => extension)

const everything = gfm()
// To look for bare addresses at every letter is most of the work of the extensions, and the work of
// putting them together, so it is left out where there can be none.
const withoutAddresses = { ...everything, text: keepConstructs(everything.text, /Autolink$/) }
const addressSign = /www\.|https?:|@/i

/** Reads GitHub-flavoured Markdown. Markup is dropped; embedded HTML is read as HTML. */
export function* readMarkdown(content: string): Generator<SourceBlock> {
  for (const cut of cutMarkdown(content)) {
    if (cut.kind === "markdown") yield* parseMarkdown(cut.text)
    else yield cut
  }
}

/** What the parser makes of one stretch. */
export function* parseMarkdown(text: string): Generator<SourceBlock> {
  const extensions = [addressSign.test(text) ? everything : withoutAddresses]
  yield* readNodes(fromMarkdown(text, { extensions, mdastExtensions }).children)
}

function keepConstructs(
  constructs: ReturnType<typeof gfm>["text"] = {},
  dropped: RegExp,
): NonNullable<ReturnType<typeof gfm>["text"]> {
  const kept = Object.entries(constructs).map(([code, given]) => {
    const list = given === undefined ? [] : [given].flat()
    return [code, list.filter(({ name }) => name === undefined || !dropped.test(name))] as const
  })
  return Object.fromEntries(kept.filter(([, list]) => list.length > 0))
}

function* readNodes(nodes: readonly RootContent[]): Generator<SourceBlock> {
  for (const node of nodes) yield* readNode(node)
}

function* readNode(node: RootContent): Generator<SourceBlock> {
  switch (node.type) {
    case "heading":
      yield { kind: "heading", text: inlineText(node.children), level: node.depth }
      return
    case "paragraph":
      yield { kind: "paragraph", text: inlineText(node.children) }
      return
    case "code":
      yield { kind: "code", text: node.value }
      return
    case "table":
      yield { kind: "table", text: tableText(node) }
      return
    case "list":
      yield* readList(node)
      return
    case "html":
      yield* readHtml(node.value)
      return
    case "blockquote":
    case "footnoteDefinition":
      yield* readNodes(node.children)
      return
    default:
      return
  }
}

/** An item's first paragraph carries the mark of the list; what else it holds follows as it is. */
function* readList(list: List): Generator<SourceBlock> {
  let number = list.start ?? 1
  for (const item of list.children) {
    const mark = list.ordered ? `${number++}. ` : "- "
    const [first, ...rest] = item.children
    if (first?.type === "paragraph") {
      yield { kind: "item", text: mark + inlineText(first.children) }
      yield* readNodes(rest)
    } else {
      yield* readNodes(item.children)
    }
  }
}

function tableText(table: Table): string {
  return table.children
    .map((row) => row.children.map((cell) => inlineText(cell.children).trim()).join(" | "))
    .join("\n")
}

function inlineText(nodes: readonly PhrasingContent[]): string {
  return nodes.map((node) => phrase(node)).join("")
}

function phrase(node: Nodes): string {
  switch (node.type) {
    case "text":
    case "inlineCode":
      return node.value
    case "break":
      return "\n"
    case "html":
      return /^<br\b/i.test(node.value) ? "\n" : ""
    case "image":
    case "imageReference":
      return node.alt ?? ""
    default:
      return "children" in node ? node.children.map((child) => phrase(child)).join("") : ""
  }
}
