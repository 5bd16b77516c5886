// What the main job does in a workspace and reads from it, besides its runs.
import { spawn } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import { text } from "node:stream/consumers"
import { fromJson, type JsonObject } from "@bufbuild/protobuf"
import type { Document } from "../gen/runwarden/projects/v1/document_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { type Citation, CitationSchema } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import type { Document as IndexedDocument } from "../gen/runwarden/retrieval/v1/document_pb.ts"
import { IngestionService } from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { openDatabase, readDatabaseConfig } from "../mesh/database.ts"
import type { ServiceName } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testRuntime } from "../mesh/testing.ts"
import type { AskedRun } from "./main-job-runs.ts"
import type { TestMesh, TestWorkspace } from "./mesh.ts"

/** A workspace of the job, a word that only one document of it holds, and the runs that ended. */
export interface Site {
  readonly mesh: TestMesh
  readonly workspace: TestWorkspace
  readonly marker: string
  readonly asked: AskedRun[]
}

const root = path.resolve(import.meta.dirname, "..")
const markerTitle = "Marker"

/** Ingests a folder by the real command, as the workspace's member; returns what it printed. */
export async function ingestFolder(
  { mesh, workspace }: Site,
  folder: string,
  signal: AbortSignal,
): Promise<unknown> {
  const command = ["cli/main.ts", "document", "ingest", folder, "--base", folder, "-o", "json"]
  const child = spawn(process.execPath, command, {
    cwd: root,
    env: {
      PATH: process.env.PATH,
      RUNWARDEN_URL: mesh.url,
      RUNWARDEN_API_KEY: workspace.member.apiKey,
    },
    stdio: ["ignore", "pipe", "pipe"],
    signal,
  })
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "close"),
  ])
  if (code !== 0) throw new Error(`the command ended with ${code}: ${stderr || stdout}`)
  return JSON.parse(stdout)
}

/** Files the one document of a workspace that holds its word; returns its id. */
export async function fileMarker({ mesh, workspace, marker }: Site): Promise<string> {
  const { workspaceId, member } = workspace
  const { document } = await mesh.client(DocumentService, member).createDocument({
    workspaceId,
    requestId: newId(),
    title: markerTitle,
    content: `The word of this workspace is ${marker}.`,
  })
  return document?.documentId ?? ""
}

/** Everything that can be found. */
export function indexedDocuments({ mesh, workspace }: Site): Promise<readonly IndexedDocument[]> {
  const { workspaceId, viewer } = workspace
  const index = mesh.client(IngestionService, viewer)
  return readPages(async (pageToken) => {
    const page = await index.listDocuments({ workspaceId, pageSize: 200, pageToken })
    return { items: page.documents, nextPageToken: page.nextPageToken }
  })
}

/** The documents that runs have filed. */
export async function filedDocuments({ mesh, workspace }: Site): Promise<readonly Document[]> {
  const { workspaceId, viewer } = workspace
  const documents = mesh.client(DocumentService, viewer)
  const all = await readPages(async (pageToken) => {
    const page = await documents.listDocuments({ workspaceId, pageSize: 200, pageToken })
    return { items: page.documents, nextPageToken: page.nextPageToken }
  })
  return all.filter(({ title }) => title !== markerTitle)
}

/** The citation that a filed document carries. */
export function citationOf(document: Document | undefined): Citation {
  const { citation = null } = (document?.metadata ?? {}) as JsonObject
  return fromJson(CitationSchema, citation)
}

/** Reads a service's own database, as the service does for a workspace. */
export async function storedRows<Row>(
  { mesh, workspace }: Site,
  service: ServiceName,
  sql: string,
): Promise<readonly Row[]> {
  await using database = openDatabase(readDatabaseConfig(service, mesh.env), {
    runtime: testRuntime(service),
    migrations: path.join(root, "services", service, "migrations"),
  })
  return await database.tenant(workspace.workspaceId, (tx) => tx.query<Row>(sql))
}

async function readPages<Item>(
  read: (
    pageToken: string,
  ) => Promise<{ readonly items: readonly Item[]; readonly nextPageToken: string }>,
): Promise<readonly Item[]> {
  const all: Item[] = []
  let pageToken = ""
  do {
    const page = await read(pageToken)
    all.push(...page.items)
    pageToken = page.nextPageToken
  } while (pageToken !== "")
  return all
}
