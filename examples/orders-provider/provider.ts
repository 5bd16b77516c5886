/** What the orders service offers to runs. */
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
  Outcome,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { Answer, Orders } from "./orders.ts"
import { Refusal } from "./rpc.ts"

const orderId = { type: "string", maxLength: 40, description: "Such as A-1001." }
const cents = { type: "integer", minimum: 0 }
const order = object({ order_id: orderId, total_cents: cents, refunded_cents: cents })

export const tools: MessageInitShape<typeof ToolDefinitionSchema>[] = [
  {
    name: "order.get",
    version: "1.0.0",
    title: "Get an order",
    description: "Returns what an order cost and what was refunded. Fails with order_not_found.",
    riskClass: RiskClass.LOW,
    effect: Effect.READ,
    inputSchema: object({ order_id: orderId }),
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

export async function executeTool(orders: Orders, workspaceId: string, call: ExecuteToolRequest) {
  const { tool, version, idempotencyKey, arguments: args } = call
  // The tools service has checked the arguments against the schema.
  const id = String(args?.order_id)
  switch (`${tool}@${version}`) {
    case "order.get@1.0.0":
      return toResponse(orders.get(workspaceId, id))
    case "order.refund@1.0.0":
      return toResponse(await orders.refund(workspaceId, idempotencyKey, id, Number(args?.cents)))
    default:
      throw new Refusal(status.INVALID_ARGUMENT, `There is no tool ${tool}@${version}.`)
  }
}

export function getOutcome(orders: Orders, workspaceId: string, key: string) {
  const known = orders.outcome(workspaceId, key)
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
