import { runService } from "../../mesh/process.ts"
import { orchestratorModule } from "./service.ts"

await runService(orchestratorModule, process.env)
