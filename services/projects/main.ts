import { runService } from "../../mesh/process.ts"
import { projectsModule } from "./service.ts"

await runService(projectsModule, process.env)
