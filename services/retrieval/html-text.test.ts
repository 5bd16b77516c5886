import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { expect, test } from "vitest"
import { analyse } from "./analysis.ts"
import { toDocumentText } from "./document-text.ts"
import { readHtml } from "./html-text.ts"
import { readMarkdown } from "./markdown-text.ts"

const evalFolder = process.env.RUNWARDEN_EVAL_DATA ?? ""
const pages = join(evalFolder, "docs-postgresql15", "html")
const hasPages = evalFolder !== "" && existsSync(pages)

test("HTML becomes blocks: headings, paragraphs, items, code as it is, tables by row", () => {
  const html = `<html><head><title>no</title><style>p{}</style></head><body>
    <h1>Top <em>heading</em></h1><p>One&nbsp;two
    three<br>four</p><ul><li><p>item <b>one</b></p></li><li>item two<ul><li>deep</li></ul></li></ul>
    <pre>  code\n    kept\n</pre>
    <table><caption>Cap</caption><thead><tr><th>a</th><th>b</th></tr></thead><tr><td>1</td><td>2</td></tr></table>
    loose text</body></html>`
  expect([...readHtml(html)].map(({ kind, text }) => [kind, text])).toEqual([
    ["heading", "Top heading"],
    ["paragraph", "One two three four"],
    ["item", "- item one"],
    ["item", "- item two"],
    ["item", "- deep"],
    ["code", "  code\n    kept\n"],
    ["table", "Cap\na | b\n1 | 2"],
    ["paragraph", "loose text"],
  ])
})

test.each([
  "<script>secret()</script>",
  "<p hidden>secret</p>",
  '<p style="display:none">secret</p>',
  '<span aria-hidden="true">secret</span>',
  "<nav>secret</nav>",
  "<template>secret</template>",
  "<!-- secret -->",
])("what nobody sees is not read: %s", (html) => {
  expect(toDocumentText(readHtml(`<p>seen</p>${html}`)).text).toBe("seen")
  expect(toDocumentText(readMarkdown(`seen\n\n${html}`)).text).not.toContain("secret</")
})

test("Markdown with HTML in it, and GitHub's tables, are read as what they are", () => {
  const text = toDocumentText(
    readMarkdown(
      "# T\n\n<div>\n<b>bold</b> move</div>\n\n| a | b |\n|---|---|\n| `x` | [y](z) |\n\n~~gone~~ ok",
    ),
  ).text
  expect(text).toBe("T\n\nbold move\n\na | b\nx | y\n\ngone ok")
})

test.skipIf(!hasPages)(
  "real manual pages keep their sections and lose their navigation",
  async () => {
    for (const page of readdirSync(pages)) {
      const content = readFileSync(join(pages, page), "utf8")
      const { text, passages } = await analyse({ mediaType: "text/html", title: page, content })
      expect(text).not.toMatch(/^(Prev|Next|Home)\b/m)
      expect(text).not.toMatch(/<\/?(p|div|span|a)\b/)
      expect(passages.length).toBeGreaterThan(0)
      expect(passages.every(({ headingPath }) => headingPath.length > 0)).toBe(true)
      for (const { anchor } of passages)
        expect(content).toMatch(new RegExp(`(id|name)="${anchor}"`))
    }
  },
)

test("a passage has the nearest anchor at or before its start", async () => {
  const filler = `<p>${"Words of the manual. ".repeat(60)}</p>`
  const content = `<p>first</p><div id="sec-a"><h2>A</h2>${filler}${filler}</div>
    <h2><a name="sec-b"></a>B</h2><p>b</p><h2>C</h2><p id="later">c</p><p id="">d</p>`
  const { passages } = await analyse({ mediaType: "text/html", title: "t", content })
  expect(passages.map(({ anchor, headingPath }) => [headingPath.at(-1), anchor])).toEqual([
    [undefined, ""],
    ["A", "sec-a"],
    ["A", "sec-a"],
    ["B", "sec-b"],
    ["C", "sec-b"],
  ])
})
