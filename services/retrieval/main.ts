import { runService } from "../../mesh/process.ts"
import { retrievalModule } from "./service.ts"

await runService(retrievalModule, process.env)
