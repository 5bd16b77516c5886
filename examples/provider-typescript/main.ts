/** The orders service: serves its tools until SIGINT or SIGTERM. */
import path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { Server, ServerCredentials } from "@grpc/grpc-js"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { readToolsKey, verifyToken } from "./identity.ts"
import { Orders } from "./orders.ts"
import { executeTool, getOutcome, tools } from "./provider.ts"
import { addMethod, type Call } from "./rpc.ts"
import { exportTraces } from "./tracing.ts"

const { env } = process
const name = env.ORDERS_NAME || "orders"
const key = readToolsKey(env.RUNWARDEN_TRUSTED_KEYS)
const file = env.ORDERS_DATABASE || path.join(import.meta.dirname, "orders.sqlite")
const orders = new Orders(file, {
  async lookUp(signal) {
    await sleep(Number(env.ORDERS_LOOKUP_MS || 20), undefined, { signal })
  },
  async pay(cents) {
    console.log(`paying cents=${cents}`)
    await sleep(Number(env.ORDERS_PAYMENT_MS || 200))
  },
})
const flushTraces = exportTraces(env.OTEL_EXPORTER_OTLP_ENDPOINT)
const callerOf = ({ metadata }: Call) => verifyToken(metadata, key, name)

const server = new Server()
addMethod(server, ToolProviderService.method.listTools, async (_, call) => {
  await callerOf(call)
  return { tools }
})
addMethod(server, ToolProviderService.method.executeTool, async (request, call) =>
  executeTool(orders, await callerOf(call), request, call),
)
addMethod(server, ToolProviderService.method.getOutcome, async (request, call) =>
  getOutcome(orders, await callerOf(call), request),
)
const listen = env.ORDERS_LISTEN || "127.0.0.1:7201"
server.bindAsync(listen, ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error
  console.log(`serving name=${name} tools=${tools.length} port=${port}`)
})
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => server.tryShutdown(() => flushTraces()))
}
