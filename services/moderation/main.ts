import { runService } from "../../mesh/process.ts"
import { moderationModule } from "./service.ts"

await runService(moderationModule, process.env)
