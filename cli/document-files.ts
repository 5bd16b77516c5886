/** From paths, folders and patterns to the files that can be ingested. */
import { type Dirent, globSync, readdirSync, statSync } from "node:fs"
import path from "node:path"
import { pathToFileURL } from "node:url"
import { CliError } from "./failure.ts"

export interface DocumentFile {
  readonly path: string
  /** The name that the document keeps: relative to the base folder, or a file URL outside of it. */
  readonly sourceUri: string
  readonly mediaType: string
}

const mediaTypes: Readonly<Record<string, string>> = {
  ".md": "text/markdown",
  ".markdown": "text/markdown",
  ".mdx": "text/markdown",
  ".txt": "text/plain",
  ".text": "text/plain",
  ".html": "text/html",
  ".htm": "text/html",
  ".xhtml": "text/html",
  ".pdf": "application/pdf",
  ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}

/** What ingestion takes, for messages. */
export const knownEndings = Object.keys(mediaTypes).join(", ")

/**
 * The files of the arguments in their order, each once. A folder stands for everything below it that
 * is of a known type, hidden ones and `node_modules` left out; a file that is named is never passed
 * over, whatever its type. Throws where an argument matches nothing.
 */
export function findFiles(args: readonly string[], cwd: string, base: string): DocumentFile[] {
  const found = new Map<string, DocumentFile>()
  for (const arg of args) {
    const files = expand(arg, cwd)
    if (files.length === 0) throw nothingAt(arg, cwd)
    for (const file of files) found.set(file, toDocumentFile(file, base))
  }
  return [...found.values()]
}

function expand(arg: string, cwd: string): readonly string[] {
  const full = path.resolve(cwd, arg)
  const stats = statSync(full, { throwIfNoEntry: false })
  if (stats?.isDirectory() === true) return filesBelow(full)
  if (stats !== undefined) return [full]
  return globSync(arg, { cwd, exclude: (name) => isPassedOver(name) })
    .map((one) => path.resolve(cwd, one))
    .filter((one) => statSync(one, { throwIfNoEntry: false })?.isFile() === true)
    .sort()
}

function filesBelow(folder: string): string[] {
  const entries: Dirent[] = readdirSync(folder, { withFileTypes: true })
  return entries
    .filter(({ name }) => !isPassedOver(name))
    .sort((one, other) => (one.name < other.name ? -1 : 1))
    .flatMap((entry) => {
      const full = path.join(folder, entry.name)
      if (entry.isDirectory()) return filesBelow(full)
      return mediaTypeOf(full) === "" ? [] : [full]
    })
}

function isPassedOver(name: string): boolean {
  return name.startsWith(".") || name === "node_modules"
}

function toDocumentFile(file: string, base: string): DocumentFile {
  const relative = path.relative(base, file)
  const isInside = relative !== "" && !relative.startsWith("..") && !path.isAbsolute(relative)
  const sourceUri = isInside ? relative.replaceAll(path.sep, "/") : pathToFileURL(file).href
  return { path: file, sourceUri, mediaType: mediaTypeOf(file) }
}

function mediaTypeOf(file: string): string {
  return mediaTypes[path.extname(file).toLowerCase()] ?? ""
}

function nothingAt(arg: string, cwd: string): CliError {
  const isFolder = statSync(path.resolve(cwd, arg), { throwIfNoEntry: false })?.isDirectory()
  return new CliError(
    isFolder === true
      ? `There is nothing to ingest in the folder ${arg}.`
      : `There is no file ${arg}, and no file matches it.`,
    { next: `Documents are files that end in ${knownEndings}.` },
  )
}
