import { type UnzipFileInfo, unzipSync, zipSync } from "fflate"
import type { SourceBlock } from "./document-text.ts"
import { readHtml } from "./html-text.ts"
import { UnreadableContent } from "./unreadable.ts"

/** Most that the parts of a document take unpacked. */
const mostBytes = 64 * 1024 * 1024
const mostParts = 5_000

/**
 * Reads the text of a DOCX: headings by their styles, lists, tables, notes. Pictures are not read. The
 * parts of text are unpacked here, within limits, and handed on unpacked: nothing else inflates.
 */
export async function readDocx(data: Uint8Array): Promise<readonly SourceBlock[]> {
  const buffer = Buffer.from(repack(data))
  const { default: mammoth } = await import("mammoth")
  try {
    const { value } = await mammoth.convertToHtml(
      { buffer },
      {
        styleMap: ["p[style-name='Title'] => h1:fresh"],
        convertImage: mammoth.images.imgElement(async () => ({ src: "" })),
      },
    )
    return [...readHtml(value)]
  } catch (error) {
    // Content that is nested without end says so by itself.
    if (error instanceof RangeError) throw error
    throw new UnreadableContent("it is no DOCX, or a broken one")
  }
}

function repack(data: Uint8Array): Uint8Array {
  let parts = 0
  let bytes = 0
  const filter = ({ name, originalSize }: UnzipFileInfo): boolean => {
    if (++parts > mostParts) throw new UnreadableContent(`it has more than ${mostParts} parts`)
    if (!/\.(?:xml|rels)$/i.test(name)) return false
    bytes += originalSize
    if (bytes > mostBytes)
      throw new UnreadableContent(`its text takes more than ${mostBytes} bytes unpacked`)
    return true
  }
  try {
    const unpacked = unzipSync(data, { filter })
    return zipSync(unpacked, { level: 0 })
  } catch (error) {
    if (error instanceof UnreadableContent) throw error
    throw new UnreadableContent("it is no DOCX, or a broken one")
  }
}
