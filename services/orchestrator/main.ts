import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { runService } from "../../mesh/process.ts"
import { readConfig } from "./config.ts"
import { createOrchestrator } from "./service.ts"

await runService("orchestrator", process.env, readConfig, (config, runtime, { connect }) =>
  createOrchestrator(config, {
    runtime,
    moderation: connect(ModerationService, "moderation"),
    tools: connect(ExecutionService, "tools"),
    membership: connect(MembershipService, "gateway"),
    telemetry: connect(EventService, "telemetry"),
  }),
)
