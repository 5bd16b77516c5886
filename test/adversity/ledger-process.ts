// The ledger tool as a process of its own, on bare gRPC: it can answer as no honest server would.
//
//   node test/adversity/ledger-process.ts HOST:PORT FILE
import { create, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf"
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  status,
} from "@grpc/grpc-js"
import {
  type ExecuteToolRequest,
  ExecuteToolRequestSchema,
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
  type GetOutcomeRequest,
  GetOutcomeRequestSchema,
  GetOutcomeResponseSchema,
  ListToolsRequestSchema,
  ListToolsResponseSchema,
  ToolProviderService,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { createVerifier } from "../../mesh/hop-tokens.ts"
import type { ServiceName } from "../../mesh/identity.ts"
import { trustedKeysSetting } from "../../mesh/keys.ts"
import { createKillSwitch, type Order } from "./kill-switch.ts"
import { openLedger, readLedger } from "./ledger-file.ts"
import { definitions, LedgerTool, Refusal } from "./ledger-tool.ts"

const [, , listen = "", file = ""] = process.argv
const killSwitch = createKillSwitch()
process.on("message", (order: Order) => killSwitch.obey(order))
process.on("disconnect", () => process.exit(1))

const trusted = trustedKeysSetting.parse(process.env.RUNWARDEN_TRUSTED_KEYS)
const verifier = createVerifier("ledger" as ServiceName, trusted)
const ledger = await openLedger(file)
const tool = new LedgerTool(ledger, readLedger(file), killSwitch.reached)

const server = new Server({ "grpc.max_send_message_length": 4 * 1024 * 1024 })
server.register(
  pathOf("ListTools"),
  (_call: unknown, callback: (error: null, value: unknown) => void) =>
    callback(null, create(ListToolsResponseSchema, { tools: definitions })),
  writer(ListToolsResponseSchema),
  reader(ListToolsRequestSchema),
  "unary",
)
server.register(
  pathOf("GetOutcome"),
  async (
    call: { request: GetOutcomeRequest; metadata: Metadata },
    callback: (error: object | null, value?: unknown) => void,
  ) => {
    try {
      const outcome = await tool.outcome(call.request, await callerOf(call.metadata))
      callback(null, create(GetOutcomeResponseSchema, outcome))
    } catch (error) {
      callback({ code: status.INTERNAL, details: String(error) })
    }
  },
  writer(GetOutcomeResponseSchema),
  reader(GetOutcomeRequestSchema),
  "unary",
)
// Served as a stream, which is the same on the wire, so that it can say nothing, or too much.
server.register(
  pathOf("ExecuteTool"),
  async (call: ServerWritableStream<ExecuteToolRequest, ExecuteToolResponse>) => {
    try {
      const caller = await callerOf(call.metadata)
      const { messages, isHeldBack } = await tool.execute(call.request, caller)
      for (const message of messages) call.write(create(ExecuteToolResponseSchema, message))
      if (!isHeldBack) call.end()
    } catch (error) {
      const code = error instanceof Refusal ? status.FAILED_PRECONDITION : status.INTERNAL
      call.emit("error", { code, details: String(error), metadata: new Metadata() })
    }
  },
  writer(ExecuteToolResponseSchema),
  reader(ExecuteToolRequestSchema),
  "serverStream",
)
server.bindAsync(listen, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error
})

function callerOf(metadata: Metadata) {
  return verifier.verify(String(metadata.get("runwarden-identity")[0]))
}

function pathOf(method: string): string {
  return `/${ToolProviderService.typeName}/${method}`
}

function writer<D extends DescMessage>(schema: D) {
  return (message: unknown) => Buffer.from(toBinary(schema, message as never))
}

function reader<D extends DescMessage>(schema: D) {
  return (bytes: Buffer) => fromBinary(schema, bytes)
}
