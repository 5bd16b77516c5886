/** What the orders service offers to runs, and how it answers them. */
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import { status } from "@grpc/grpc-js"
import {
  Effect,
  RiskClass,
  type ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import {
  type ExecuteToolRequest,
  type ExecuteToolResponseSchema,
  type GetOutcomeRequest,
  Outcome,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { Caller } from "./identity.ts"
import type { Answer, Orders } from "./orders.ts"
import { type Call, Refusal } from "./rpc.ts"
import { traced } from "./tracing.ts"

const orderId = { type: "string", maxLength: 40, description: "Such as A-1001." }
const text = { type: "string", minLength: 1, maxLength: 500 }
const cents = { type: "integer", minimum: 0 }
const order = object({
  order_id: orderId,
  total_cents: cents,
  refunded_cents: cents,
  notes: { type: "array", items: text },
})

export const tools: MessageInitShape<typeof ToolDefinitionSchema>[] = [
  {
    name: "order.get",
    version: "1.0.0",
    title: "Get an order",
    description: "Returns an order, its refunds and its notes. Fails with order_not_found.",
    riskClass: RiskClass.LOW,
    effect: Effect.READ,
    inputSchema: object({ order_id: orderId }),
    outputSchema: order,
  },
  {
    name: "order.note",
    version: "1.0.0",
    title: "Add a note to an order",
    description: "Adds a note and returns the order. Fails with order_not_found.",
    riskClass: RiskClass.LOW,
    effect: Effect.KEYED,
    inputSchema: object({ order_id: orderId, text }),
    outputSchema: order,
  },
  {
    name: "order.refund",
    version: "1.0.0",
    title: "Refund an order",
    description:
      "Pays money back and returns the order. Fails with order_not_found or refund_too_large.",
    riskClass: RiskClass.HIGH,
    // The payment provider takes no key of ours: a lost answer of it cannot be asked for again.
    effect: Effect.UNSAFE,
    inputSchema: object({ order_id: orderId, cents: { ...cents, minimum: 1 } }),
    outputSchema: order,
  },
]

export function executeTool(
  orders: Orders,
  caller: Caller,
  request: ExecuteToolRequest,
  { metadata, signal, deadline }: Call,
) {
  const { tool, idempotencyKey, runId } = request
  return traced(`execute ${tool}`, metadata, async (traceId) => {
    const about = `tool=${tool} key=${idempotencyKey}`
    const forWhom = `workspace=${caller.workspaceId} actor=${caller.actorId} run=${runId}`
    const leftMs = deadline.getTime() - Date.now()
    console.log(`call ${about} ${forWhom} trace=${traceId} left_ms=${leftMs}`)
    signal.addEventListener("abort", () => console.log(`stopped ${about}`))
    return toResponse(await answer(orders, caller.workspaceId, request, signal))
  })
}

async function answer(
  orders: Orders,
  workspaceId: string,
  { tool, version, idempotencyKey: key, arguments: args }: ExecuteToolRequest,
  signal: AbortSignal,
): Promise<Answer> {
  // Runwarden has checked the arguments against the schema.
  const id = String(args?.order_id)
  switch (`${tool}@${version}`) {
    case "order.get@1.0.0":
      return orders.get(workspaceId, id, signal)
    case "order.note@1.0.0":
      return orders.note(workspaceId, key, id, String(args?.text))
    case "order.refund@1.0.0":
      return orders.refund(workspaceId, key, id, Number(args?.cents))
    default:
      throw new Refusal(status.INVALID_ARGUMENT, `There is no tool ${tool}@${version}.`)
  }
}

export function getOutcome(orders: Orders, caller: Caller, { idempotencyKey }: GetOutcomeRequest) {
  const known = orders.outcome(caller.workspaceId, idempotencyKey)
  // A call that is not recorded may still be on its way: NOT_EXECUTED would promise too much.
  if (known === undefined || known === "unknown") return { outcome: Outcome.UNKNOWN }
  return { outcome: Outcome.COMPLETED, response: toResponse(known) }
}

function toResponse(answer: Answer): MessageInitShape<typeof ExecuteToolResponseSchema> {
  return "result" in answer
    ? { outcome: { case: "result", value: answer.result } }
    : { outcome: { case: "error", value: answer.error } }
}

function object(properties: JsonObject) {
  const required = Object.keys(properties)
  return { type: "object", properties, required, additionalProperties: false }
}
