import path from "node:path"
import { Presets, SingleBar } from "cli-progress"
import type { Command } from "commander"
import {
  DeleteDocumentResponseSchema,
  DeleteOutcome,
  GetDocumentResponseSchema,
  IngestionService,
  ListDocumentsResponseSchema,
} from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { type DocumentFile, findFiles } from "./document-files.ts"
import { exitCodes } from "./exit-code.ts"
import { CliError } from "./failure.ts"
import { type FileOutcome, ingestFiles } from "./ingestion.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

interface IngestOptions {
  readonly base?: string
}

export function documentCommands(cli: Cli): Command {
  return group("document", "the documents that searches find", [
    command<IngestOptions>(cli, "ingest <paths...>", "ingest files, folders and patterns", {
      examples: [
        "document ingest docs",
        "document ingest README.md 'notes/**/*.md' site/index.html contract.pdf",
        "document ingest --base /srv/handbook /srv/handbook -o json",
      ],
      more: `
Markdown, text and HTML, as UTF-8, PDF and DOCX. A document is known by its path below the base folder:
ingesting it again changes nothing while the file is the same, and gives the next version when it is not.
Exit code: 0, or 1 where some file failed.`,
      configure: (made) =>
        made.option("--base <folder>", "folder that documents are named below; the current one"),
      action: ingest,
    }),
    command<PageOptions>(cli, "list", "list the documents in the index", {
      examples: ["document list", "document list --limit 500 -o json"],
      configure: addPageOptions,
      action: listDocuments,
    }),
    command<{ readonly text?: boolean }>(cli, "get <document-id>", "show a document", {
      examples: ["document get <id>", "document get <id> --text"],
      configure: (made) => made.option("--text", "with the stored plain text"),
      action: (context, options, [id = ""]) => {
        return getDocument(context, readId(id, "document"), options.text === true)
      },
    }),
    command(cli, "delete <document-id>", "remove a document from the index", {
      examples: ["document delete <id>"],
      more: "\nNo search finds it any more, and no citation of it is verified.",
      action: (context, _, [id = ""]) => deleteDocument(context, readId(id, "document")),
    }),
  ])
}

async function ingest(context: Context, options: IngestOptions, paths: string[]): Promise<void> {
  const { out, io } = context
  const base = path.resolve(io.cwd, options.base ?? ".")
  const files = findFiles(paths, io.cwd, base)
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const progress = createProgress(context, files.length)
  let outcomes: ReadonlyMap<DocumentFile, FileOutcome>
  try {
    outcomes = await ingestFiles(
      {
        client: session.client(IngestionService),
        workspaceId,
        url: session.target.url,
        signal: session.signal,
        now: io.now,
        done: progress.done,
      },
      files,
    )
  } finally {
    progress.end()
  }
  const summary = summarise(files, outcomes)
  if (out.isJson) out.document(summary)
  else tellSummary(context, summary)
  if (summary.failed.length > 0) context.exitWith(exitCodes.error)
}

interface Summary {
  readonly new: number
  readonly updated: number
  readonly unchanged: number
  readonly failed: readonly {
    readonly path: string
    readonly reason: string
    readonly message: string
  }[]
}

function summarise(
  files: readonly DocumentFile[],
  outcomes: ReadonlyMap<DocumentFile, FileOutcome>,
): Summary {
  const count = (kind: FileOutcome["kind"]) =>
    [...outcomes.values()].filter((outcome) => outcome.kind === kind).length
  return {
    new: count("new"),
    updated: count("updated"),
    unchanged: count("unchanged"),
    failed: files.flatMap((file) => {
      const outcome = outcomes.get(file)
      if (outcome?.kind !== "failed") return []
      const { message, reason, fields } = outcome.failure
      const details = fields.map(({ field, description }) => `${field}: ${description}`)
      return [{ path: file.sourceUri, reason, message: [message, ...details].join(" ") }]
    }),
  }
}

function tellSummary({ out, io }: Context, summary: Summary): void {
  const { new: created, updated, unchanged, failed } = summary
  for (const { path: file, message, reason } of failed) {
    io.stderr.write(`${shortened(file, 200)}: ${shortened(message, 400)} (${reason})\n`)
  }
  const counts = `${created} new, ${updated} updated, ${unchanged} unchanged, ${failed.length} failed`
  out.marked(failed.length > 0 ? "failure" : "success", counts)
}

/** A bar on a terminal, a line now and then elsewhere; nothing with --quiet or JSON. */
function createProgress({ out, io }: Context, total: number) {
  let count = 0
  if (out.isJson || out.isQuiet || total < 2) return { done: () => {}, end: () => {} }
  if (io.stderr.isTTY === true) {
    const bar = new SingleBar(
      {
        stream: io.stderr as NodeJS.WritableStream,
        format: "{bar} {value}/{total} documents, {eta_formatted} left",
        hideCursor: true,
        clearOnComplete: true,
      },
      Presets.shades_classic,
    )
    bar.start(total, 0)
    return { done: () => bar.increment(), end: () => bar.stop() }
  }
  const every = Math.max(1, Math.ceil(total / 10))
  return {
    done() {
      count += 1
      if (count % every === 0 || count === total) out.note(`${count} of ${total} documents`)
    },
    end() {},
  }
}

async function listDocuments(context: Context, options: PageOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  await printList(context, options, {
    async read(page) {
      const index = session.client(IngestionService)
      const found = await index.listDocuments({ workspaceId, ...page }, session.options)
      return { items: found.documents, nextPageToken: found.nextPageToken }
    },
    schema: ListDocumentsResponseSchema,
    toResponse: (documents, nextPageToken) => ({ documents, nextPageToken }),
    head: ["DOCUMENT", "TITLE", "SOURCE", "PASSAGES", "CHANGED"],
    row: (document) => [
      document.documentId,
      shortened(document.title, 40),
      shortened(document.sourceUri, 50),
      String(document.passageCount),
      ageOf(document.updateTime, context.io.now()),
    ],
    empty: "No documents. Ingest some: npx runwarden document ingest docs",
  })
}

async function getDocument(
  context: Context,
  documentId: string,
  includeText: boolean,
): Promise<void> {
  const { out, io } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(IngestionService)
    .getDocument({ workspaceId, documentId, includeText }, session.options)
  out.message(GetDocumentResponseSchema, response, () => {
    const { document, text } = response
    if (document === undefined) return
    out.details([
      ["document", document.documentId],
      ["title", document.title],
      ["source", document.sourceUri],
      ["type", document.mediaType],
      ["version", String(document.version)],
      ["passages", String(document.passageCount)],
      ["characters", String(document.textLength)],
      ["content", document.contentSha256],
      ["created", timeText(document.createTime, io.now())],
      ["changed", timeText(document.updateTime, io.now())],
    ])
    if (includeText) out.line(`\n${text}`)
  })
}

async function deleteDocument(context: Context, documentId: string): Promise<void> {
  const { out } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const client = session.client(IngestionService)
  const found = await client.getDocument({ workspaceId, documentId }, session.options)
  const version = found.document?.version
  if (version === undefined) throw new CliError("The document was not given back.")
  const request = { workspaceId, requestId: newId(), documentId, version }
  const response = await client.deleteDocument(request, session.options)
  if (response.outcome !== DeleteOutcome.DELETED) {
    throw new CliError("A newer version was ingested meanwhile, so the document stays.", {
      reason: "stale",
      next: "Look at it, and delete it again.",
    })
  }
  out.message(DeleteDocumentResponseSchema, response, () => {
    if (out.isQuiet) return out.line(documentId)
    out.marked("success", `document ${documentId} is deleted`)
  })
}
