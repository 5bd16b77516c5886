/** What the tests of this service share: the service on a real database, with peers that listen. */
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { DocumentService } from "../../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectService } from "../../gen/runwarden/projects/v1/project_service_pb.ts"
import {
  type DeleteDocumentRequest,
  type IngestDocumentRequest,
  IngestionService,
} from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { memberSubject, type Subject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { route } from "../../mesh/service.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import { createProjects } from "./service.ts"

/** What a fake peer has received, and what it is to throw at the next calls. */
export interface Received {
  readonly indexed: (IngestDocumentRequest | DeleteDocumentRequest)[]
  readonly events: Event[]
  readonly refusals: RunwardenError[]
}

export async function startProjects() {
  const stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase("projects"))
  const received: Received = { indexed: [], events: [], refusals: [] }
  const runtime = testRuntime("projects")
  const service = stack.use(
    createProjects(
      { database, indexTimeoutMs: 5_000 },
      {
        runtime,
        retrieval: testClient(IngestionService, fakeRetrieval(received), "projects"),
        telemetry: testClient(EventService, fakeTelemetry(received), "projects"),
      },
    ),
  )
  await service.start(AbortSignal.timeout(60_000))
  const target = { routes: service.routes, runtime }
  return {
    received,
    projects: testClient(ProjectService, target),
    documents: testClient(DocumentService, target),
    tools: testClient(ToolProviderService, target, "tools"),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** A member of a workspace of its own, unless one is given. */
export function someone(role: Role = Role.MEMBER, workspaceId: string = newId()): Subject {
  return memberSubject(workspaceId, newId(), role)
}

function fakeRetrieval(received: Received) {
  const take = (request: IngestDocumentRequest | DeleteDocumentRequest) => {
    const refusal = received.refusals.shift()
    if (refusal !== undefined) throw refusal
    received.indexed.push(request)
    return {}
  }
  return {
    runtime: testRuntime("retrieval"),
    routes: [
      route(IngestionService, {
        ingestDocument: take,
        deleteDocument: take,
        getDocument: ({ documentId }) => {
          throw notFound("document", documentId)
        },
        listDocuments: () => ({}),
      }),
    ],
  }
}

function fakeTelemetry(received: Received) {
  return {
    runtime: testRuntime("telemetry"),
    routes: [
      route(EventService, {
        recordEvents({ events }) {
          received.events.push(...events)
          return { recordedCount: events.length }
        },
        batchRecordEvents() {
          throw new RunwardenError("METHOD_NOT_FOUND", { method: "BatchRecordEvents" })
        },
      }),
    ],
  }
}
