/** Files as tests need them, written by hand: small PDFs and DOCX, whole and broken. */
import { deflateSync } from "node:zlib"
import { strToU8, zipSync } from "fflate"

/** A line of a page: the size of its letters in points, and its text in ASCII. */
export type PdfLine = readonly [size: number, text: string]

/** A PDF with a page for each list of lines. */
export function makePdf(pages: readonly (readonly PdfLine[])[]): Uint8Array {
  return makePdfOf(pages.map((lines) => ({ stream: Buffer.from(drawLines(lines)), filter: "" })))
}

/** A PDF of one page, whose content unpacks to so many bytes in two steps. */
export function makePdfBomb(bytes: number): Uint8Array {
  const inner = deflateSync(Buffer.alloc(bytes, " "), { level: 9 })
  const stream = deflateSync(inner, { level: 9 })
  return makePdfOf([{ stream, filter: "/Filter [/FlateDecode /FlateDecode]" }])
}

/** A DOCX of these paragraphs; the style is that of Word, such as `Heading1`. */
export function makeDocx(paragraphs: readonly (readonly [style: string, text: string])[]) {
  const body = paragraphs
    .map(([style, text]) => {
      const properties = style === "" ? "" : `<w:pPr><w:pStyle w:val="${style}"/></w:pPr>`
      return `<w:p>${properties}<w:r><w:t>${text}</w:t></w:r></w:p>`
    })
    .join("")
  return makeDocxOf(body)
}

/** A DOCX whose body is this XML. */
export function makeDocxOf(body: string, others: Readonly<Record<string, Uint8Array>> = {}) {
  const office = "http://schemas.openxmlformats.org"
  const word = `${office}/wordprocessingml/2006/main`
  const xml = (text: string) => strToU8(`<?xml version="1.0" encoding="UTF-8"?>${text}`)
  const styles = ["Heading1", "Heading2", "Title"].map((id) => {
    const name = id.replace("Heading", "heading ")
    return `<w:style w:type="paragraph" w:styleId="${id}"><w:name w:val="${name}"/></w:style>`
  })
  const type = "application/vnd.openxmlformats-officedocument.wordprocessingml"
  return zipSync({
    "[Content_Types].xml": xml(
      `<Types xmlns="${office}/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="${type}.document.main+xml"/><Override PartName="/word/styles.xml" ContentType="${type}.styles+xml"/></Types>`,
    ),
    "_rels/.rels": xml(
      `<Relationships xmlns="${office}/package/2006/relationships"><Relationship Id="r1" Type="${office}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>`,
    ),
    "word/_rels/document.xml.rels": xml(
      `<Relationships xmlns="${office}/package/2006/relationships"><Relationship Id="r1" Type="${office}/officeDocument/2006/relationships/styles" Target="styles.xml"/></Relationships>`,
    ),
    "word/styles.xml": xml(`<w:styles xmlns:w="${word}">${styles.join("")}</w:styles>`),
    "word/document.xml": xml(`<w:document xmlns:w="${word}"><w:body>${body}</w:body></w:document>`),
    ...others,
  })
}

function drawLines(lines: readonly PdfLine[]): string {
  let y = 720
  const drawn = lines.map(([size, text]) => {
    y -= size * 1.2
    const written = `/F1 ${size} Tf 1 0 0 1 72 ${y} Tm (${text}) Tj`
    if (text === "") y -= size
    return written
  })
  return ["BT", ...drawn, "ET"].join("\n")
}

function makePdfOf(pages: readonly { readonly stream: Buffer; readonly filter: string }[]) {
  const kids = pages.map((_, index) => `${4 + index * 2} 0 R`)
  const objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    `<< /Type /Pages /Kids [${kids.join(" ")}] /Count ${pages.length} >>`,
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ...pages.flatMap(({ stream, filter }, index) => [
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents ${5 + index * 2} 0 R /Resources << /Font << /F1 3 0 R >> >> >>`,
      `<< /Length ${stream.length} ${filter} >>\nstream\n${stream.toString("latin1")}\nendstream`,
    ]),
  ]
  let file = "%PDF-1.7\n"
  const places = objects.map((object, index) => {
    const place = String(file.length).padStart(10, "0")
    file += `${index + 1} 0 obj\n${object}\nendobj\n`
    return `${place} 00000 n \n`
  })
  const count = objects.length + 1
  const table = `xref\n0 ${count}\n0000000000 65535 f \n${places.join("")}`
  const end = `trailer\n<< /Size ${count} /Root 1 0 R >>\nstartxref\n${file.length}\n%%EOF\n`
  return new Uint8Array(Buffer.from(file + table + end, "latin1"))
}
