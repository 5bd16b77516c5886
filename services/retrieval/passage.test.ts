import fc from "fast-check"
import { expect, test } from "vitest"
import { type Analysis, analyse, countCodePoints, type TextType } from "./analysis.ts"
import { toDocumentText } from "./document-text.ts"
import { readMarkdown } from "./markdown-text.ts"
import { cutPassages } from "./passage.ts"

const fixed = { seed: 20_240_501, numRuns: 300 }

const word = fc.oneof(
  fc.string({ unit: "binary", minLength: 1, maxLength: 12 }).map((text) => text.toWellFormed()),
  fc.constantFrom(
    "alpha",
    "pg_stat_activity",
    "👩‍👩‍👧",
    "naïve",
    "数据库",
    "مرحبا",
    "$libdir",
    "\u200b",
    "e\u0301",
  ),
)
const line = fc.array(word, { maxLength: 40 }).map((words) => words.join(" "))
const markdownBlock = fc.oneof(
  line,
  fc
    .tuple(fc.integer({ min: 1, max: 6 }), line)
    .map(([level, text]) => `${"#".repeat(level)} ${text}`),
  line.map((text) => `- ${text}\n  - nested ${text}`),
  line.map((text) => `1. ${text}`),
  line.map((text) => `\`\`\`\n${text}\n\n  ${text}\n\`\`\``),
  fc.tuple(line, line).map(([a, b]) => `| a | b |\n|---|---|\n| ${a.replaceAll("|", "")} | ${b} |`),
  line.map((text) => `> ${text}`),
  line.map((text) => `<div><b>${text}</b><p>${text}</div>`),
  fc.constant("word ".repeat(700)),
  fc.constant("字".repeat(2_000)),
  fc.constant("𝒳".repeat(1_600)),
)
const content = fc.array(markdownBlock, { maxLength: 8 }).map((blocks) => blocks.join("\n\n"))

test.each<TextType>(["text/markdown", "text/html", "text/plain"])(
  "the passages of any %s are exactly the text at their offsets, and miss nothing",
  async (mediaType) => {
    await fc.assert(
      fc.asyncProperty(content, async (text) => {
        expectExact(await analyse({ mediaType, title: "t", content: text }))
      }),
      fixed,
    )
  },
)

test("a passage keeps the headings above it and crosses none", () => {
  const document = toDocumentText(
    readMarkdown("# A\n\none\n\n## B\n\n### C\n\ntwo\n\n## D\n\nthree\n\n# E\n\nfour"),
  )
  const passages = cutPassages(document).map(({ start, end, headingPath }) => ({
    text: document.text.slice(start, end),
    path: headingPath.join(" > "),
  }))
  expect(passages).toEqual([
    { text: "A\n\none", path: "A" },
    { text: "B\n\nC\n\ntwo", path: "A > B > C" },
    { text: "D\n\nthree", path: "A > D" },
    { text: "E\n\nfour", path: "E" },
  ])
})

test("running text is cut to size at sentences; code and tables stay whole while they can", async () => {
  const sentence = "The quick brown fox jumps over the lazy dog, twice. "
  const prose = await analyse({
    mediaType: "text/plain",
    title: "t",
    content: sentence.repeat(100),
  })
  expect(prose.passages.length).toBeGreaterThan(3)
  for (const { text } of prose.passages) {
    expect(text.length).toBeLessThanOrEqual(1_500)
    expect(text.endsWith(".")).toBe(true)
  }
  const code = `\`\`\`\n${"select 1 from t;\n".repeat(200)}\`\`\``
  const kept = await analyse({ mediaType: "text/markdown", title: "t", content: code })
  expect(kept.passages).toHaveLength(1)
  const rows = `| a | b |\n|---|---|\n${"| left | right |\n".repeat(1_000)}`
  const split = await analyse({ mediaType: "text/markdown", title: "t", content: rows })
  for (const { text } of split.passages) expect(text.split("\n").every(isRow)).toBe(true)
})

function isRow(text: string): boolean {
  return /^\S+ \| \S+$/.test(text)
}

/** Offsets count code points, passages are in order, and only white space lies between them. */
function expectExact({ text, textLength, passages }: Analysis): void {
  expect(text.isWellFormed()).toBe(true)
  const codePoints = [...text]
  expect(textLength).toBe(codePoints.length)
  let end = 0
  for (const passage of passages) {
    expect(passage.start).toBeGreaterThanOrEqual(end)
    expect(codePoints.slice(end, passage.start).join("").trim()).toBe("")
    expect(codePoints.slice(passage.start, passage.end).join("")).toBe(passage.text)
    expect(passage.text.trim()).not.toBe("")
    expect(countCodePoints(passage.text)).toBe(passage.end - passage.start)
    end = passage.end
  }
  expect(codePoints.slice(end).join("").trim()).toBe("")
}
