// What the main job does in a workspace and reads from it, besides its runs.
import { spawn } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import { text } from "node:stream/consumers"
import { setTimeout as pause } from "node:timers/promises"
import { type DescService, fromJson, type JsonObject } from "@bufbuild/protobuf"
import { type Client, Code, ConnectError, type Transport } from "@connectrpc/connect"
import type { Document } from "../gen/runwarden/projects/v1/document_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { type Citation, CitationSchema } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import type { Document as IndexedDocument } from "../gen/runwarden/retrieval/v1/document_pb.ts"
import { IngestionService } from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGatewayTransport } from "../mesh/client-transport.ts"
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
  /** A client as one of the workspace's people. */
  client<S extends DescService>(service: S, role: "viewer" | "member" | "approver"): Client<S>
}

const root = path.resolve(import.meta.dirname, "..")
const markerTitle = "Marker"

export async function createSite(mesh: TestMesh, marker: string): Promise<Site> {
  const workspace = await mesh.addWorkspace()
  const transportOf = ({ apiKey }: { readonly apiKey: string }) =>
    patient(createGatewayTransport({ url: mesh.url, apiKey, timeoutMs: 30_000 }))
  const transports = {
    viewer: transportOf(workspace.viewer),
    member: transportOf(workspace.member),
    approver: transportOf(workspace.approver),
  }
  return {
    mesh,
    workspace,
    marker,
    asked: [],
    client: (service, role) => createMeshClient(service, transports[role]),
  }
}

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
export async function fileMarker({ client, workspace, marker }: Site): Promise<string> {
  const { document } = await client(DocumentService, "member").createDocument({
    workspaceId: workspace.workspaceId,
    requestId: newId(),
    title: markerTitle,
    content: `The word of this workspace is ${marker}.`,
  })
  return document?.documentId ?? ""
}

/** Everything that can be found. */
export function indexedDocuments({ client, workspace }: Site): Promise<readonly IndexedDocument[]> {
  const { workspaceId } = workspace
  const index = client(IngestionService, "viewer")
  return readPages(async (pageToken) => {
    const page = await index.listDocuments({ workspaceId, pageSize: 200, pageToken })
    return { items: page.documents, nextPageToken: page.nextPageToken }
  })
}

/** The documents that runs have filed. */
export async function filedDocuments({ client, workspace }: Site): Promise<readonly Document[]> {
  const { workspaceId } = workspace
  const documents = client(DocumentService, "viewer")
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

/** Sends again what a busy machine could not answer, under the same request id, as clients are to. */
function patient(inner: Transport): Transport {
  return {
    stream: inner.stream.bind(inner),
    async unary(...call) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await inner.unary(...call)
        } catch (error) {
          if (ConnectError.from(error).code !== Code.Unavailable || attempt === 10) throw error
          await pause(200 * attempt)
        }
      }
    },
  }
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
