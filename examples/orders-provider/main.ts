/** The orders service: serves its tools until SIGINT or SIGTERM. */
import path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { type Metadata, Server, ServerCredentials } from "@grpc/grpc-js"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { readToolsKey, verifyToken } from "./identity.ts"
import { Orders } from "./orders.ts"
import { executeTool, getOutcome, tools } from "./provider.ts"
import { addMethod } from "./rpc.ts"

const { env } = process
const name = env.ORDERS_NAME || "orders"
const listen = env.ORDERS_LISTEN || "127.0.0.1:7201"
const key = readToolsKey(env.RUNWARDEN_TRUSTED_KEYS)
const file = env.ORDERS_DATABASE || path.join(import.meta.dirname, "orders.sqlite")
const orders = new Orders(file, async (cents) => {
  console.log(`paying ${cents} cents back`)
  await sleep(Number(env.ORDERS_PAYMENT_MS || 200))
})

function workspaceOf(metadata: Metadata): Promise<string> {
  return verifyToken(String(metadata.get("runwarden-identity")[0]), key, name)
}

const server = new Server()
addMethod(server, ToolProviderService.method.listTools, async (_, metadata) => {
  await workspaceOf(metadata)
  return { tools }
})
addMethod(server, ToolProviderService.method.executeTool, async (call, metadata) =>
  executeTool(orders, await workspaceOf(metadata), call),
)
addMethod(server, ToolProviderService.method.getOutcome, async ({ idempotencyKey }, metadata) =>
  getOutcome(orders, await workspaceOf(metadata), idempotencyKey),
)
server.bindAsync(listen, ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error
  console.log(`${name} serves ${tools.length} tools on port ${port}`)
})
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => server.tryShutdown(() => {}))
