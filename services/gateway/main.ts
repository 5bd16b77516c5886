import { runService } from "../../mesh/process.ts"
import { gatewayModule } from "./service.ts"

await runService(gatewayModule, process.env)
