/** PDF and DOCX: what is read of them, and what is refused. */
import { ConnectError } from "@connectrpc/connect"
import { zipSync } from "fflate"
import { afterAll, beforeAll, expect, test } from "vitest"
import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts"
import { CitationVerdict } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { type BinaryType, binaryTypes } from "./analysis.ts"
import { readDocx } from "./docx-text.ts"
import { readPdf } from "./pdf-text.ts"
import { type Harness, startRetrieval, type Tenant } from "./retrieval-harness.ts"
import { makeDocx, makeDocxOf, makePdf, makePdfBomb } from "./sample-files.ts"

const [pdf, docx] = binaryTypes

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

const manual = makePdf([
  [
    [22, "Wombat manual"],
    [16, "Burrows"],
    [11, "The wombat digs a burrow and sleeps in it; this is well under-"],
    [11, "stood."],
    [11, ""],
    [11, "Another paragraph."],
  ],
  [[11, "Pelicans fish on the second page."]],
])

test("a PDF becomes headings and paragraphs with their pages", async () => {
  expect(await readPdf(manual.slice())).toMatchObject([
    { kind: "heading", level: 1, text: "Wombat manual", page: 1 },
    { kind: "heading", level: 2, text: "Burrows", page: 1 },
    {
      kind: "paragraph",
      text: "The wombat digs a burrow and sleeps in it; this is well understood.",
      page: 1,
    },
    { kind: "paragraph", text: "Another paragraph.", page: 1 },
    { kind: "paragraph", text: "Pelicans fish on the second page.", page: 2 },
  ])
})

test("a DOCX becomes headings, paragraphs and tables", async () => {
  const cell = (text: string) => `<w:tc><w:p><w:r><w:t>${text}</w:t></w:r></w:p></w:tc>`
  const table = `<w:tbl><w:tr>${cell("a")}${cell("b")}</w:tr><w:tr>${cell("1")}${cell("2")}</w:tr></w:tbl>`
  const heading = `<w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Rules</w:t></w:r></w:p>`
  const body = `${heading}<w:p><w:r><w:t>Digging is </w:t></w:r><w:r><w:t>allowed.</w:t></w:r></w:p>${table}`
  const blocks = await readDocx(makeDocxOf(body, { "word/media/big.png": new Uint8Array(9) }))
  expect(blocks.map(({ kind, text, level }) => [kind, text, level])).toEqual([
    ["heading", "Rules", 2],
    ["paragraph", "Digging is allowed.", 0],
    ["table", "a | b\n1 | 2", 0],
  ])
})

test("a PDF is found and cited by its page, and a citation of another page is none", async () => {
  const own = harness.newTenant()
  const id = newId()
  const { document } = await ingestFile(own, id, pdf, manual)
  expect(document).toMatchObject({ mediaType: pdf, passageCount: 2 })
  const [found] = await own.search("pelicans")
  const citation = found?.citation
  if (citation === undefined) throw new Error("nothing was found")
  expect(citation).toMatchObject({ page: 2, anchor: "", text: "Pelicans fish on the second page." })
  expect(citation.headingPath).toEqual(["Wombat manual", "Burrows"])
  const { VERIFIED, SOURCE_MISMATCH } = CitationVerdict
  expect((await own.verify(citation)).verdict).toBe(VERIFIED)
  expect((await own.verify({ ...citation, page: 1 })).verdict).toBe(SOURCE_MISMATCH)
  expect((await own.verify({ ...citation, anchor: "x" })).verdict).toBe(SOURCE_MISMATCH)
})

test("a DOCX is found and cited", async () => {
  const own = harness.newTenant()
  const file = makeDocx([
    ["Title", "Handbook"],
    ["Heading1", "Leave"],
    ["", "Everybody has thirty days &amp; a half. 🐾"],
  ])
  await ingestFile(own, newId(), docx, file)
  const [found] = await own.search("thirty days")
  expect(found?.citation?.text).toContain("thirty days & a half. 🐾")
  expect((await own.verify(found?.citation)).verdict).toBe(CitationVerdict.VERIFIED)
})

test("the same file again changes nothing", async () => {
  const own = harness.newTenant()
  const id = newId()
  const first = await ingestFile(own, id, pdf, manual)
  const again = await ingestFile(own, id, pdf, manual)
  expect(again.document?.contentSha256).toBe(first.document?.contentSha256)
  const other = ingestFile(own, id, pdf, makePdf([[[11, "Other."]]]))
  expect(reasonOf(await other.catch((error) => error))).toBe("ALREADY_EXISTS")
})

const deep = `<w:p>${"<w:r>".repeat(60_000)}${"</w:r>".repeat(60_000)}</w:p>`
const huge = () => ({ "word/huge.xml": new Uint8Array(65 * 2 ** 20) })

test.each<[string, BinaryType, () => Uint8Array, RegExp]>([
  ["garbage", pdf, () => Buffer.from("garbage"), /no PDF/],
  ["half a PDF", pdf, () => manual.slice(0, 90), /no PDF/],
  ["a PDF of pictures", pdf, () => makePdf([[]]), /no text/],
  ["too many pages", pdf, () => makePdf(Array.from({ length: 2_001 }, () => [])), /2001 pages/],
  ["garbage", docx, () => Buffer.from("garbage"), /no DOCX/],
  ["half a DOCX", docx, () => makeDocx([["", "text"]]).slice(0, 300), /no DOCX/],
  ["another archive", docx, () => zipSync({ "a.xml": new Uint8Array(3) }), /no DOCX/],
  ["a DOCX that unpacks to too much", docx, () => makeDocxOf("", huge()), /unpacked/],
  ["runs without end", docx, () => makeDocxOf(deep), /nested too deeply|no DOCX/],
  ["an empty file", pdf, () => new Uint8Array(0), /must hold the file/],
])(
  "%s as %s is refused by name",
  async (_, mediaType, file, why) => {
    const own = harness.newTenant()
    const refused = await ingestFile(own, newId(), mediaType, file()).catch((error) => error)
    expect(violationsOf(refused)).toEqual([
      { field: "data", description: expect.stringMatching(why) },
    ])
    await own.ingest(newId(), 1, "the next document is read")
    expect(await own.search("next document")).toHaveLength(1)
  },
  60_000,
)

test("what unpacks without end costs its thread and nothing else", async () => {
  const own = harness.newTenant()
  const before = process.memoryUsage().rss
  const bomb = ingestFile(own, newId(), pdf, makePdfBomb(900 * 2 ** 20))
  const refused = await bomb.catch((error) => error)
  const [violation] = violationsOf(refused)
  expect(violation).toMatchObject({ field: "data", description: expect.stringMatching(/too much/) })
  expect(process.memoryUsage().rss - before).toBeLessThan(2_000 * 2 ** 20)
  await own.ingest(newId(), 1, "the next document is read")
  expect(await own.search("next document")).toHaveLength(1)
}, 120_000)

test("text and bytes come in their own fields", async () => {
  const own = harness.newTenant()
  const { workspaceId } = own
  const rest = { workspaceId, requestId: newId(), documentId: newId(), version: 1n, title: "t" }
  const asData = { mediaType: "text/plain", data: Buffer.from("text") }
  const text = await own.ingestion.ingestDocument({ ...rest, ...asData }, own.as()).catch((e) => e)
  expect(violationsOf(text)).toMatchObject([{ field: "data" }])
  const asContent = { mediaType: pdf, content: "%PDF" }
  const file = await own.ingestion
    .ingestDocument({ ...rest, ...asContent }, own.as())
    .catch((e) => e)
  expect(violationsOf(file)).toMatchObject([{ field: "content" }])
})

function ingestFile(own: Tenant, documentId: string, mediaType: string, data: Uint8Array) {
  const { workspaceId } = own
  const fixed = { requestId: newId(), version: 1n, title: "File" }
  return own.ingestion.ingestDocument(
    { workspaceId, documentId, mediaType, data, ...fixed },
    own.as(),
  )
}

function violationsOf(error: unknown) {
  const [details] = ConnectError.from(error).findDetails(BadRequestSchema)
  return (details?.fieldViolations ?? []).map(({ field, description }) => ({ field, description }))
}
