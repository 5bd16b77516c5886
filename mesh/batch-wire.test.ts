import { create, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf"
import fc from "fast-check"
import { expect, test } from "vitest"
import {
  BatchModerateRequestSchema,
  BatchModerateResponseSchema,
  ModerateRequestSchema,
  ModerateResponseSchema,
  ModerationService,
} from "../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { EventService } from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import {
  BatchExecuteRequestSchema,
  BatchExecuteResponseSchema,
} from "../gen/runwarden/tools/v1/execute_pb.ts"
import { ExecutionService } from "../gen/runwarden/tools/v1/execution_service_pb.ts"
import {
  BatchExecuteToolRequestSchema,
  BatchExecuteToolResponseSchema,
  ToolProviderService,
} from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { batchOf, unaryOf } from "./batch-methods.ts"
import {
  decodeBatchRequest,
  decodeBatchResponse,
  encodeBatchRequest,
  encodeBatchResponse,
} from "./batch-wire.ts"

const item = fc.record({
  identity: fc.integer({ min: 0, max: 63 }),
  timeoutMs: fc.integer({ min: 0, max: 2 ** 40 }),
  traceParent: fc.string(),
  request: fc
    .string()
    .map((runId) => toBinary(ModerateRequestSchema, create(ModerateRequestSchema, { runId }))),
})
const request = fc.record({
  identities: fc.array(fc.string(), { maxLength: 4 }),
  items: fc.array(item, { maxLength: 4 }),
})

test("a request is what the contract says that it is, both ways", () => {
  fc.assert(
    fc.property(request, (batch) => {
      const bytes = encodeBatchRequest(batch)
      const message = fromBinary(BatchModerateRequestSchema, bytes)
      expect(message.identities).toEqual(batch.identities)
      expect(
        message.items.map((one) => ({
          identity: one.identity,
          timeoutMs: Number(one.timeoutMillis),
          traceParent: one.traceParent,
          request: toBinary(ModerateRequestSchema, one.request ?? create(ModerateRequestSchema)),
        })),
      ).toEqual(batch.items)
      const read = decodeBatchRequest(toBinary(BatchModerateRequestSchema, message))
      expect(read).toEqual({
        identities: batch.identities,
        items: batch.items.map((one) => ({ ...one, request: new Uint8Array(one.request) })),
      })
    }),
    { seed: 3, numRuns: 200 },
  )
})

test("a response is what the contract says that it is, both ways", () => {
  const response = toBinary(
    ModerateResponseSchema,
    create(ModerateResponseSchema, { decision: { decisionId: "a" } }),
  )
  const error = toBinary(BatchModerateResponseSchema, create(BatchModerateResponseSchema))
  const results = [
    { item: 3, response },
    { item: 0, error },
  ]
  const message = fromBinary(BatchModerateResponseSchema, encodeBatchResponse(results))
  expect(message.results.map(({ item: index, outcome }) => [index, outcome.case])).toEqual([
    [3, "response"],
    [0, "error"],
  ])
  expect(decodeBatchResponse(toBinary(BatchModerateResponseSchema, message))).toEqual(results)
})

test("what is unknown is skipped, and what is no batch is refused", () => {
  const unknown = Buffer.from([0x7a, 1, 0x41])
  expect(decodeBatchRequest(unknown)).toEqual({ identities: [], items: [] })
  expect(decodeBatchResponse(unknown)).toEqual([])
  for (const bytes of [
    [0x08, 1],
    [0x12, 9, 1],
    [0x0a, 1, 0xff],
  ]) {
    expect(() => decodeBatchRequest(Buffer.from(bytes))).toThrow()
  }
})

test("every batch of the contract has this shape", () => {
  const shape = (schema?: DescMessage) =>
    schema?.fields.map((field) => `${field.number} ${field.name}`)
  for (const [requests, responses] of [
    [BatchModerateRequestSchema, BatchModerateResponseSchema],
    [BatchExecuteRequestSchema, BatchExecuteResponseSchema],
    [BatchExecuteToolRequestSchema, BatchExecuteToolResponseSchema],
  ] as const) {
    expect(shape(requests)).toEqual(["1 identities", "2 items"])
    expect(shape(requests.field.items.message)).toEqual([
      "1 identity",
      "2 timeout_millis",
      "3 trace_parent",
      "4 request",
    ])
    expect(shape(responses)).toEqual(["1 results"])
    expect(shape(responses.field.results.message)).toEqual(["1 item", "2 response", "3 error"])
  }
})

test("a batch is known by its name and its kind", () => {
  expect(batchOf(ModerationService.method.moderate)).toBe(ModerationService.method.batchModerate)
  expect(batchOf(ExecutionService.method.execute)).toBe(ExecutionService.method.batchExecute)
  expect(unaryOf(ToolProviderService.method.batchExecuteTool)).toBe(
    ToolProviderService.method.executeTool,
  )
  expect(batchOf(ExecutionService.method.sealExecution)).toBeUndefined()
  // Unary itself: its service serves it like any other.
  expect(batchOf(EventService.method.recordEvents)).toBeUndefined()
  expect(unaryOf(EventService.method.batchRecordEvents)).toBeUndefined()
})
