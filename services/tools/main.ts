import { runService } from "../../mesh/process.ts"
import { toolsModule } from "./service.ts"

await runService(toolsModule, process.env)
