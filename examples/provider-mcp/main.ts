/**
 * The orders service as an MCP server over its standard streams. It does the same work as the gRPC
 * ones, but is told less: no workspace, no actor, and nobody asks it what became of a call.
 */
import path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { type CallToolResult, McpServer, type ServerContext } from "@modelcontextprotocol/server"
import { serveStdio } from "@modelcontextprotocol/server/stdio"
import { z } from "zod"
import { type Answer, Orders } from "../provider-typescript/orders.ts"

const { env } = process
const file = env.ORDERS_DATABASE || path.join(import.meta.dirname, "orders.sqlite")
const orders = new Orders(file, {
  async lookUp(signal) {
    await sleep(Number(env.ORDERS_LOOKUP_MS || 20), undefined, { signal })
  },
  async pay(cents) {
    // The standard output belongs to the protocol.
    console.error(`paying cents=${cents}`)
    await sleep(Number(env.ORDERS_PAYMENT_MS || 200))
  },
})

const orderId = z.string().max(40).describe("Such as A-1001.")
const outputSchema = z.strictObject({
  order_id: orderId,
  total_cents: z.int().min(0),
  refunded_cents: z.int().min(0),
  notes: z.array(z.string()),
})
/** Every workspace has a process of its own here; which one it is, nobody tells. */
const everybody = ""

function createServer(): McpServer {
  const server = new McpServer({ name: "orders", version: "1.0.0" })
  server.registerTool(
    "order.get",
    {
      title: "Get an order",
      description: "Returns an order, its refunds and its notes.",
      inputSchema: z.strictObject({ order_id: orderId }),
      outputSchema,
      annotations: { readOnlyHint: true },
    },
    async ({ order_id }, { mcpReq }) =>
      toResult(await orders.get(everybody, order_id, mcpReq.signal)),
  )
  server.registerTool(
    "order.note",
    {
      title: "Add a note to an order",
      description: "Adds a note and returns the order.",
      inputSchema: z.strictObject({ order_id: orderId, text: z.string().min(1).max(500) }),
      outputSchema,
      annotations: { idempotentHint: true },
    },
    async ({ order_id, text }, context) =>
      toResult(orders.note(everybody, keyOf(context), order_id, text)),
  )
  server.registerTool(
    "order.refund",
    {
      title: "Refund an order",
      description: "Pays money back and returns the order.",
      inputSchema: z.strictObject({ order_id: orderId, cents: z.int().min(1) }),
      outputSchema,
      annotations: { destructiveHint: true },
    },
    async ({ order_id, cents }, context) =>
      toResult(await orders.refund(everybody, keyOf(context), order_id, cents)),
  )
  return server
}

/** The same for every attempt of one call; what makes a tool KEYED. */
function keyOf({ mcpReq }: ServerContext): string {
  const key = mcpReq._meta?.["runwarden.dev/idempotency-key"]
  if (typeof key !== "string") throw new Error("The call brings no key.")
  return key
}

function toResult(answer: Answer): CallToolResult {
  return "result" in answer
    ? { content: [], structuredContent: answer.result }
    : { content: [{ type: "text", text: answer.error.message }], isError: true }
}

serveStdio(createServer)
