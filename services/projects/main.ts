import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { runService } from "../../mesh/process.ts"
import { readConfig } from "./config.ts"
import { createProjects } from "./service.ts"

await runService("projects", process.env, readConfig, (config, runtime, peers) =>
  createProjects(config, {
    runtime,
    retrieval: peers.connect(IngestionService, "retrieval"),
    telemetry: peers.connect(EventService, "telemetry"),
  }),
)
