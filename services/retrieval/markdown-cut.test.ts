import fc, { array, constantFrom, property, tuple } from "fast-check"
import { expect, test } from "vitest"
import { type DocumentText, type SourceBlock, toDocumentText } from "./document-text.ts"
import { cutMarkdown, longestStretch } from "./markdown-cut.ts"
import { parseMarkdown, readMarkdown } from "./markdown-text.ts"

/** Lines that mean something else beside or below one another. */
const lines = [
  ...["text", "more text", " one space", "  two", "   three", "    four", "\ttab", "", "", "", " "],
  ...[
    "# heading",
    "## two ##",
    "#no heading",
    "# a *b* c",
    "#",
    "===",
    "---",
    "***",
    "title",
    "- - -",
  ],
  ...[
    "- item",
    "* star",
    "+ plus",
    " - inner",
    "  - deep",
    "- # in item",
    "-",
    "- [ ] task",
    "-     code",
  ],
  ...["1. one", "2) two", "10. ten", "> quote", ">", "> - both", "- > both", "* a _b_"],
  ...["```", "```js", "~~~", "````", " ```", "  ```", "- ```", "> ```", "``` a`b"],
  ...[
    "<div>",
    "</div>",
    "<!-- open",
    "-->",
    "<pre>",
    "</pre>",
    "a <b>bold</b>",
    "<x",
    " <p>",
    "<?php",
  ],
  ...[
    "| a | b |",
    "| - | - |",
    "a | b",
    "- | -",
    ":-: | :-:",
    "a_b_c",
    "_em_",
    "**strong**",
    "*",
    "a * b",
  ],
  ...["`code`", "``", "~~gone~~", "a ~ b", "[a](b)", "[a]", "[a]: http://x", "[^1]", "[^1]: note"],
  ...[
    "&amp;",
    "&x",
    "a\\*b",
    "back\\",
    "end  ",
    "http://a/_b_",
    "www.x.y/*a*",
    "a@b.c_d_",
    "a < b",
    "_a b",
  ],
  ...[
    "b_ c",
    "*a",
    "b*",
    "a** b",
    "snake_case _x",
    "y_",
    "\uFFFD",
    "é_ü_",
    "[x] y",
    "![a](b)",
    "2 < 3 & 4",
  ],
]

test("what is cut reads as what is not", () => {
  const line = constantFrom(...lines)
  const document = array(tuple(line, constantFrom("\n", "\n", "\n\n")), { maxLength: 14 })
  fc.assert(
    property(document, (parts) => {
      const content = parts.flat().join("")
      expect(outcome(() => readMarkdown(content))).toEqual(outcome(() => parseMarkdown(content)))
    }),
    { numRuns: 4_000, seed: 20_261 },
  )
}, 60_000)

/** The parser's own assertions, which only its development build has, count as an outcome. */
function outcome(read: () => Iterable<SourceBlock>): DocumentText | "failed" {
  try {
    return toDocumentText(read())
  } catch (error) {
    if (error instanceof Error && error.name === "Assertion") return "failed"
    throw error
  }
}

test("plain blocks need no parser", () => {
  const content =
    "# Wombats\n\nThey dig.\nAnd dig_deep.\n\n- burrows\n- tunnels\n  and more\n\n```\n*x*\n```\n"
  const kinds = [...cutMarkdown(content)].map(({ kind }) => kind)
  expect(kinds).toEqual(["heading", "paragraph", "item", "item", "code"])
})

test("the parser never gets much at once, and nothing is lost or torn", () => {
  for (const word of ["*a* b ", "*a*\n", "> *a*\n", "*🐾*", "[a]: b\n\n*c*\n\n"]) {
    const content = word.repeat(200_000 / word.length)
    const cuts = [...cutMarkdown(content)]
    for (const { kind, text } of cuts) {
      expect(kind).toBe("markdown")
      expect(text.length).toBeLessThanOrEqual(longestStretch)
      expect(text.isWellFormed()).toBe(true)
    }
    expect(cuts.map(({ text }) => text).join("")).toBe(content)
  }
})

test("time grows with size, in one paragraph too", () => {
  const links = "Some **bold** and [link](http://a.b/c) here. "
  const cpuOf = (size: number) => {
    const content = links.repeat(size / links.length)
    const start = process.cpuUsage()
    expect([...readMarkdown(content)].length).toBeGreaterThan(0)
    const { user, system } = process.cpuUsage(start)
    return user + system
  }
  cpuOf(64 * 1024)
  expect(cpuOf(1024 * 1024) / cpuOf(128 * 1024)).toBeLessThan(20)
}, 60_000)
