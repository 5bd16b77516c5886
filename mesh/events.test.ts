import { create, toBinary } from "@bufbuild/protobuf"
import fc from "fast-check"
import { expect, test } from "vitest"
import {
  type BatchRecordEventsRequest,
  BatchRecordEventsRequestSchema,
  BatchRecordEventsResponseSchema,
  EventService,
} from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { sendEvents, type WorkspaceEvents } from "./events.ts"
import { newId } from "./ids.ts"
import { route } from "./service.ts"
import { testClient, testRuntime } from "./testing.ts"

type Refused = { workspaceIndex: number; eventIndex: number; field: string }[]

function peer(refuse: (request: BatchRecordEventsRequest) => Refused = () => []) {
  const requests: BatchRecordEventsRequest[] = []
  const target = {
    runtime: testRuntime("telemetry"),
    routes: [
      route(EventService, {
        recordEvents: () => ({}),
        batchRecordEvents(request) {
          requests.push(request)
          return create(BatchRecordEventsResponseSchema, { refused: refuse(request) })
        },
      }),
    ],
  }
  const logged: unknown[] = []
  const runtime = testRuntime("orchestrator")
  runtime.log.error = (...words: unknown[]) => logged.push(words)
  const telemetry = testClient(EventService, target, "orchestrator")
  return { requests, logged, deps: { runtime, telemetry } }
}

const event = (tool: string): WorkspaceEvents["events"][number] => ({
  eventId: newId(),
  occurTime: { seconds: 1_800_000_000n, nanos: 999_999_999 },
  runId: newId(),
  traceId: "f".repeat(32),
  payload: {
    case: "toolCallChanged",
    value: {
      stepIndex: 0xffff_ffff,
      tool,
      state: "succeeded",
      reason: "",
      executionMillis: 2n ** 63n,
    },
  },
})

test("events go in calls that telemetry takes, each once and in order", async () => {
  const tool = fc.constantFrom("t/x", "x".repeat(200), "€".repeat(200), "😀".repeat(200))
  const lot = fc.tuple(fc.constantFrom(0, 1, 40, 700, 5_100), tool)
  await fc.assert(
    fc.asyncProperty(fc.array(lot, { maxLength: 12 }), async (lots) => {
      const all = lots.map(([count, name]) => ({
        workspaceId: newId(),
        events: Array.from({ length: count }, () => event(name)),
      }))
      const { requests, deps } = peer()
      await sendEvents(deps, all)
      const sent = new Map<string, string[]>()
      for (const request of requests) {
        const size = toBinary(BatchRecordEventsRequestSchema, request).byteLength
        expect(size).toBeLessThanOrEqual(1024 * 1024)
        expect(request.workspaces.flatMap(({ events }) => events).length).toBeLessThanOrEqual(5_000)
        const ids = request.workspaces.map(({ workspaceId }) => workspaceId)
        expect(new Set(ids).size).toBe(ids.length)
        for (const { workspaceId, events } of request.workspaces) {
          const before = sent.get(workspaceId) ?? []
          sent.set(workspaceId, [...before, ...events.map(({ eventId }) => eventId)])
        }
      }
      expect([...sent]).toEqual(
        all.flatMap(({ workspaceId, events }) =>
          events.length === 0 ? [] : [[workspaceId, events.map(({ eventId }) => eventId)]],
        ),
      )
    }),
    { seed: 31, numRuns: 12 },
  )
}, 60_000)

test("what telemetry refuses is logged, by workspace and event, and counts as sent", async () => {
  const all = [1, 2].map(() => ({ workspaceId: newId(), events: [event("a"), event("b")] }))
  const { logged, deps } = peer(() => [{ workspaceIndex: 1, eventIndex: 0, field: "event_id" }])
  await sendEvents(deps, all)
  const { workspaceId, events } = all[1] ?? { workspaceId: "", events: [] }
  const which = { workspaceId, eventId: events[0]?.eventId, field: "event_id" }
  expect(logged).toEqual([[which, "telemetry refused an event"]])
})
