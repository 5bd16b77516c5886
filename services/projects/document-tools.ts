import type { JsonObject } from "@bufbuild/protobuf"
import { z } from "zod"
import * as actions from "./document-actions.ts"
import { documentJson } from "./project-message.ts"
import { defineTool, type Tool } from "./tool.ts"

/** Most characters of a text that one call takes or gives; longer ones come and go by RPC. */
const maxContent = 131_072

const documentId = z
  .uuid()
  .describe("Id of the document, as document.create or document.list gave it.")
const etag = z
  .string()
  .max(64)
  .optional()
  .describe(
    "The etag that the document had when you read it. Give it to fail instead of overwriting a change that somebody else made meanwhile.",
  )
const title = z.string().min(1).max(300).describe("Title of the document, for people.")
const mediaType = z.enum(["text/markdown", "text/plain", "text/html"])
const content = z.string().max(maxContent).describe("The whole text of the document.")
const metadata = z
  .record(z.string(), z.unknown())
  .describe(
    "Free JSON to keep with the document, such as the citations of its claims; at most 16 KB.",
  )

const documentShape = {
  document_id: z.uuid().describe("Id of the document; pass it to the other tools."),
  project_id: z.uuid().optional().describe("Project that it is filed in, if any."),
  title: z.string(),
  media_type: mediaType,
  content_bytes: z.int().min(0).describe("Length of the text in UTF-8 bytes."),
  content_sha256: z.string().describe("SHA-256 (hex) of the text in UTF-8."),
  metadata: z.record(z.string(), z.unknown()),
  version: z.int().min(1).describe("Rises by one with every change."),
  etag: z.string(),
  creator: z.string().describe("Actor who created the document."),
  create_time: z.string().describe("RFC 3339 time."),
  update_time: z.string().describe("RFC 3339 time."),
}
const document = z.strictObject(documentShape)

export const documentTools: readonly Tool[] = [
  defineTool({
    name: "document.create",
    title: "File a document",
    description:
      "Stores a document, in a project or by itself, and has it indexed for search within seconds. Returns it with its document_id, without its text. Fails with project_not_found, and with illegal_transition where the project is archived.",
    risk: "low",
    effect: "keyed",
    input: z.strictObject({
      project_id: z.uuid().optional().describe("Project to file it in; absent for none."),
      title,
      media_type: mediaType.optional().describe("Type of the text; text/markdown if absent."),
      content,
      metadata: metadata.optional(),
    }),
    output: document,
    async run(tx, author, args) {
      const input = {
        projectId: args.project_id,
        title: args.title,
        mediaType: args.media_type ?? actions.defaultMediaType,
        content: args.content,
        metadata: (args.metadata ?? {}) as JsonObject,
      }
      return documentOf(await actions.createDocument(tx, author, input))
    },
  }),
  defineTool({
    name: "document.get",
    title: "Read a document",
    description: `Returns one document with its text. At most ${maxContent} characters come at once: where truncated is true, call again with offset raised by the length of what came. Fails with document_not_found.`,
    risk: "low",
    effect: "read",
    input: z.strictObject({
      document_id: documentId,
      offset: z.int().min(0).optional().describe("Characters to skip; 0 if absent."),
    }),
    output: z.strictObject({
      ...documentShape,
      content: z.string().describe("The text from offset on."),
      truncated: z.boolean().describe("Whether more text follows."),
    }),
    async run(tx, _, args) {
      const found = await actions.getDocument(tx, args.document_id)
      // Code points, not UTF-16 units: half a character is no JSON.
      const rest = Array.from(found.content).slice(args.offset ?? 0)
      const text = rest.slice(0, maxContent).join("")
      return { ...documentOf(found), content: text, truncated: rest.length > maxContent }
    },
  }),
  defineTool({
    name: "document.list",
    title: "List documents",
    description:
      "Returns the documents of the workspace, or of one project, newest first and without their text, a page at a time. An empty next_page_token says that there are no more.",
    risk: "low",
    effect: "read",
    input: z.strictObject({
      project_id: z.uuid().optional().describe("Only documents filed in this project."),
      page_size: z.int().min(1).max(200).optional().describe("At most so many; 50 if absent."),
      page_token: z.string().max(4096).optional().describe("next_page_token of the page before."),
    }),
    output: z.strictObject({ documents: z.array(document), next_page_token: z.string() }),
    async run(tx, _, args) {
      const page = await actions.listDocuments(tx, {
        projectId: args.project_id,
        pageSize: args.page_size ?? 0,
        pageToken: args.page_token ?? "",
      })
      return { documents: page.documents.map(documentOf), next_page_token: page.nextPageToken }
    },
  }),
  defineTool({
    name: "document.update",
    title: "Change a document",
    description:
      "Replaces the title, the whole text, or the metadata; what is absent stays. The version rises by one and the index follows within seconds. Fails with document_not_found, etag_mismatch, and illegal_transition where its project is archived.",
    risk: "medium",
    effect: "keyed",
    input: z.strictObject({
      document_id: documentId,
      title: title.optional(),
      content: content.optional(),
      metadata: metadata.optional(),
      etag,
    }),
    output: document,
    async run(tx, author, args) {
      const change = {
        documentId: args.document_id,
        etag: args.etag ?? "",
        title: args.title,
        content: args.content,
        metadata: args.metadata as JsonObject | undefined,
      }
      return documentOf(await actions.updateDocument(tx, author, change))
    },
  }),
  defineTool({
    name: "document.delete",
    title: "Delete a document",
    description:
      "Removes a document for good, from the workspace and from search. It cannot be undone. Fails with document_not_found and etag_mismatch.",
    risk: "high",
    effect: "keyed",
    input: z.strictObject({ document_id: documentId, etag }),
    output: z.strictObject({ document_id: z.uuid(), deleted: z.literal(true) }),
    async run(tx, author, args) {
      const input = { documentId: args.document_id, etag: args.etag ?? "" }
      await actions.deleteDocument(tx, author, input)
      return { document_id: args.document_id, deleted: true as const }
    },
  }),
]

function documentOf(row: Parameters<typeof documentJson>[0]): z.infer<typeof document> {
  return document.parse(documentJson(row))
}
