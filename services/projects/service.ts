/**
 * The projects service: projects and their documents, as RPCs and as tools.
 *
 * project.ts            the state machine of a project
 * project-actions.ts, document-actions.ts   what can be done, inside a transaction
 * project-store.ts, document-store.ts, keyed-call-store.ts   every SQL statement
 * project-message.ts    rows as messages and as JSON
 * project-handlers.ts, document-handlers.ts   the RPCs
 * tool.ts, project-tools.ts, document-tools.ts, tool-handlers.ts   the same, offered as tools
 * keyed-calls.ts        one answer per idempotency key
 * document-index.ts     the outbox to retrieval
 */
import { fileURLToPath } from "node:url"
import type { Client } from "@connectrpc/connect"
import { DocumentService } from "../../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectService } from "../../gen/runwarden/projects/v1/project_service_pb.ts"
import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { createEventOutbox } from "../../mesh/events.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { type ProjectsConfig, readConfig } from "./config.ts"
import { documentHandlers } from "./document-handlers.ts"
import { createIndexOutbox } from "./document-index.ts"
import { projectHandlers } from "./project-handlers.ts"
import { toolHandlers } from "./tool-handlers.ts"

export interface ProjectsDeps {
  readonly runtime: Runtime
  readonly retrieval: Client<typeof IngestionService>
  readonly telemetry: Client<typeof EventService>
}

const migrations = fileURLToPath(new URL("./migrations", import.meta.url))

/** 1 MB of content, with room for the other fields. */
const documentBytes = 1280 * 1024
const readLimits = {
  "runwarden.projects.v1.DocumentService/CreateDocument": documentBytes,
  "runwarden.projects.v1.DocumentService/UpdateDocument": documentBytes,
}

export const projectsModule: ServiceModule<ProjectsConfig> = {
  name: "projects",
  readLimits,
  readConfig,
  create: (config, runtime, peers) =>
    createProjects(config, {
      runtime,
      retrieval: peers.connect(IngestionService, "retrieval"),
      telemetry: peers.connect(EventService, "telemetry"),
    }),
}

/** Creates the service. Nothing connects before `start`. */
export function createProjects(config: ProjectsConfig, deps: ProjectsDeps): Service {
  const { runtime, retrieval, telemetry } = deps
  const stack = new AsyncDisposableStack()
  const database = stack.use(openDatabase(config.database, { runtime, migrations }))
  const timeoutMs = config.indexTimeoutMs
  const index = stack.use(createIndexOutbox({ database, runtime, retrieval, timeoutMs }))
  const events = stack.use(createEventOutbox({ database, runtime, telemetry }))
  const changed = () => {
    index.poke()
    events.poke()
  }
  const handlers = { database, changed }
  return {
    routes: [
      route(ProjectService, projectHandlers(handlers)),
      route(DocumentService, documentHandlers(handlers)),
      route(ToolProviderService, toolHandlers(handlers)),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      index.start()
      events.start()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
