import { runService } from "../../mesh/process.ts"
import { telemetryModule } from "./service.ts"

await runService(telemetryModule, process.env)
