/**
 * Ingesting many files: a few at a time, each once. A document's id follows from workspace and
 * source, so that a repeat finds what is there: the same content is not sent again, and changed
 * content becomes the next version.
 */
import { createHash } from "node:crypto"
import { readFile } from "node:fs/promises"
import path from "node:path"
import type { Client } from "@connectrpc/connect"
import { v5 } from "uuid"
import type { Document } from "../gen/runwarden/retrieval/v1/document_pb.ts"
import {
  type IngestionService,
  IngestOutcome,
} from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { newId } from "../mesh/ids.ts"
import { type DocumentFile, knownEndings } from "./document-files.ts"
import { CliError, type Failure, toFailure } from "./failure.ts"

const concurrency = 8
const largestBytes = 1_048_576
const maxAttempts = 3

export type FileOutcome =
  | { readonly kind: "new" | "updated" | "unchanged"; readonly documentId: string }
  | { readonly kind: "failed"; readonly failure: Failure }

export interface Ingestion {
  readonly client: Client<typeof IngestionService>
  readonly workspaceId: string
  readonly url: string
  readonly signal: AbortSignal
  readonly now: () => Date
  /** Told of every file as it is done. */
  done(file: DocumentFile, outcome: FileOutcome): void
}

/** Ingests every file. Fails only where the mesh itself cannot be used. */
export async function ingestFiles(
  ingestion: Ingestion,
  files: readonly DocumentFile[],
): Promise<ReadonlyMap<DocumentFile, FileOutcome>> {
  const outcomes = new Map<DocumentFile, FileOutcome>()
  const waiting = files.values()
  await Promise.all(
    Array.from({ length: Math.min(concurrency, files.length) }, async () => {
      for (const file of waiting) {
        ingestion.signal.throwIfAborted()
        const outcome = await ingestFile(ingestion, file)
        outcomes.set(file, outcome)
        ingestion.done(file, outcome)
      }
    }),
  )
  return outcomes
}

/** The id of a document: the same source in the same workspace has the same one everywhere. */
export function documentIdOf(workspaceId: string, sourceUri: string): string {
  return v5(sourceUri, workspaceId)
}

async function ingestFile(ingestion: Ingestion, file: DocumentFile): Promise<FileOutcome> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ingestOnce(ingestion, file)
    } catch (error) {
      ingestion.signal.throwIfAborted()
      if (isFatal(error, ingestion.url)) throw error
      if (attempt === maxAttempts || !mayPass(error)) {
        return { kind: "failed", failure: toFailure(error, ingestion.url) }
      }
    }
  }
}

async function ingestOnce(ingestion: Ingestion, file: DocumentFile): Promise<FileOutcome> {
  const { client, workspaceId, signal } = ingestion
  const bytes = await readBytes(file)
  const content = isText(file) ? readText(bytes) : bytes
  const documentId = documentIdOf(workspaceId, file.sourceUri)
  const title = titleOf(file, content)
  const stored = await findStored(ingestion, documentId)
  const isSame =
    stored?.contentSha256 === createHash("sha256").update(content).digest("hex") &&
    stored.title === title &&
    stored.mediaType === file.mediaType &&
    stored.sourceUri === file.sourceUri
  if (isSame) return { kind: "unchanged", documentId }
  // Ahead of what is stored even where another machine's clock was.
  const clock = BigInt(ingestion.now().getTime())
  const next = (stored?.version ?? 0n) + 1n
  const version = clock > next ? clock : next
  const { outcome } = await client.ingestDocument(
    {
      workspaceId,
      requestId: newId(),
      documentId,
      version,
      title,
      mediaType: file.mediaType,
      ...(typeof content === "string" ? { content } : { data: content }),
      sourceUri: file.sourceUri,
    },
    { signal },
  )
  switch (outcome) {
    case IngestOutcome.INDEXED:
      return { kind: stored === undefined ? "new" : "updated", documentId }
    case IngestOutcome.UNCHANGED:
      return { kind: "unchanged", documentId }
    case IngestOutcome.STALE:
      throw new CliError("Somebody else ingested a newer version meanwhile.")
    case IngestOutcome.DELETED:
      throw new CliError("The document was deleted at a later version.")
    default:
      throw new CliError("The mesh gave an answer that this program does not know.")
  }
}

async function findStored(
  { client, workspaceId, signal }: Ingestion,
  documentId: string,
): Promise<Document | undefined> {
  try {
    return (await client.getDocument({ workspaceId, documentId }, { signal })).document
  } catch (error) {
    if (reasonOf(error) === "NOT_FOUND") return undefined
    throw error
  }
}

function isText({ mediaType }: DocumentFile): boolean {
  return mediaType.startsWith("text/")
}

async function readBytes(file: DocumentFile): Promise<Uint8Array> {
  if (file.mediaType === "") {
    throw new CliError(`This type of file cannot be ingested; known are ${knownEndings}.`, {
      reason: "unsupported_media_type",
    })
  }
  const bytes = await readFile(file.path).catch((error: NodeJS.ErrnoException) => {
    const why = error.code === "EACCES" ? "it may not be read" : (error.code ?? error.message)
    throw new CliError(`The file cannot be read: ${why}.`, { reason: "unreadable", cause: error })
  })
  if (bytes.length > largestBytes) {
    throw new CliError(
      `The file has ${bytes.length} bytes; a document has at most ${largestBytes}.`,
      {
        reason: "too_large",
      },
    )
  }
  return bytes
}

function readText(bytes: Uint8Array): string {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
    if (!text.includes("\0")) return text
  } catch {
    // The message below says it.
  }
  throw new CliError("The file is no UTF-8 text.", { reason: "no_text" })
}

/** The first heading or title, or the name of the file. */
function titleOf({ path: file, mediaType }: DocumentFile, content: string | Uint8Array): string {
  const found =
    typeof content !== "string"
      ? undefined
      : mediaType === "text/markdown"
        ? /^#{1,6}[ \t]+(.+?)[ \t#]*$/m.exec(content)?.[1]
        : mediaType === "text/html"
          ? decoded(/<title[^>]*>([^<]*)<\/title>/i.exec(content)?.[1] ?? "")
          : undefined
  const title = (found ?? "").replaceAll(/\s+/g, " ").trim()
  return [...(title === "" ? path.basename(file) : title)].slice(0, 500).join("")
}

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: " ",
}

function decoded(html: string): string {
  return html.replace(
    /&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{2,8}));/gi,
    (all, decimal, hex, name) => {
      if (name !== undefined) return entities[String(name).toLowerCase()] ?? all
      const code = decimal === undefined ? Number.parseInt(hex, 16) : Number(decimal)
      return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : all
    },
  )
}

/** What every other file would fail with as well. */
function isFatal(error: unknown, url: string): boolean {
  const reason = reasonOf(error)
  const fatal = ["UNAUTHENTICATED", "NOT_A_MEMBER", "ROLE_TOO_LOW", "METHOD_NOT_FOUND"]
  if (reason !== undefined) return fatal.includes(reason)
  return ["unreachable", "not_a_gateway"].includes(toFailure(error, url).reason)
}

function mayPass(error: unknown): boolean {
  const reason = reasonOf(error)
  return (
    reason === "DEPENDENCY_UNAVAILABLE" ||
    reason === "SHUTTING_DOWN" ||
    reason === "DEADLINE_EXCEEDED" ||
    reason === "ALREADY_EXISTS"
  )
}
