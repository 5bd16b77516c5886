// The shop as a process of its own. Its supervisor may have it killed at a kill point, and take guards
// out of its code; it ends with its supervisor.
//
//   node test/retail/retail-process.ts HOST:PORT [MUTATION …]
import { readDatabaseConfig } from "../../mesh/database.ts"
import { createGrpcServer } from "../../mesh/grpc-server.ts"
import { trustedKeysSetting } from "../../mesh/keys.ts"
import { aborted, untilSignal } from "../../mesh/lifecycle.ts"
import { createKillSwitch, type Order } from "../adversity/kill-switch.ts"
import { installMutations } from "../adversity/mutations.ts"

const [, , listen = "", ...mutations] = process.argv
const { env } = process
const killSwitch = createKillSwitch()
process.on("message", (order: Order) => killSwitch.obey(order))
const leave = () => process.exit(1)
process.on("disconnect", leave)

installMutations(mutations)
const { createRetail, retailName, retailRuntime } = await import("./provider.ts")
await untilSignal(async (signal) => {
  const trusted = trustedKeysSetting.parse(env.RUNWARDEN_TRUSTED_KEYS)
  const runtime = retailRuntime(trusted, killSwitch.reached)
  await using stack = new AsyncDisposableStack()
  const service = stack.use(createRetail(readDatabaseConfig(retailName, env), runtime))
  await service.start(signal)
  const server = stack.use(createGrpcServer({ routes: service.routes, runtime }, { listen }))
  await server.start()
  await aborted(signal)
})
process.off("disconnect", leave)
process.disconnect?.()
