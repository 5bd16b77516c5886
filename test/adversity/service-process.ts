// One service as a process of its own, as in production but for this: its supervisor may have it
// killed at a kill point, move its clock, and take guards out of its code.
//
//   node test/adversity/service-process.ts SERVICE [MUTATION …]
import { runService } from "../../mesh/process.ts"
import type { ServiceModule } from "../../mesh/service.ts"
import { installJumpingClock, jump } from "./jumping-clock.ts"
import { createKillSwitch, type Order } from "./kill-switch.ts"
import { installMutations } from "./mutations.ts"

const modules = {
  gateway: async () => (await import("../../services/gateway/service.ts")).gatewayModule,
  moderation: async () => (await import("../../services/moderation/service.ts")).moderationModule,
  orchestrator: async () =>
    (await import("../../services/orchestrator/service.ts")).orchestratorModule,
  telemetry: async () => (await import("../../services/telemetry/service.ts")).telemetryModule,
  tools: async () => (await import("../../services/tools/service.ts")).toolsModule,
}

const [, , name = "", ...mutations] = process.argv
const load = modules[name as keyof typeof modules]
if (load === undefined) throw new Error(`no service ${name}`)

const killSwitch = createKillSwitch()
process.on("message", (order: Order) => {
  killSwitch.obey(order)
  if (order.kind === "clock") jump(order.offsetMs)
})
// Nobody is left who would start it again, or end it.
const leave = () => process.exit(1)
process.on("disconnect", leave)

installJumpingClock()
installMutations(mutations)
await runService((await load()) as ServiceModule, process.env, killSwitch.reached)
process.off("disconnect", leave)
process.disconnect?.()
