import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import { timestampNow } from "@bufbuild/protobuf/wkt"
import type { Client } from "@connectrpc/connect"
import { EventSchema } from "../gen/runwarden/telemetry/v1/event_pb.ts"
import type {
  BatchRecordEventsRequestSchema,
  EventService,
} from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { Database, Tx } from "./database.ts"
import { actingAs, serviceSubject } from "./identity.ts"
import { newId } from "./ids.ts"
import { createOutbox, enqueue, type Outbox } from "./outbox.ts"
import type { Runtime } from "./service.ts"
import { activeTraceId } from "./tracing.ts"

const topic = "telemetry"

/**
 * Writes events for telemetry into the outbox, in the transaction of the change that they report.
 * Event id, time and trace id are filled in where they are absent.
 */
export function recordEvents(
  tx: Tx,
  events: readonly MessageInitShape<typeof EventSchema>[],
): Promise<void> {
  return enqueue(
    tx,
    topic,
    events.map((init) => {
      const event = create(EventSchema, init)
      if (event.eventId === "") event.eventId = newId()
      event.occurTime ??= timestampNow()
      if (event.traceId === "") event.traceId = activeTraceId()
      return { id: event.eventId, payload: toBinary(EventSchema, event) }
    }),
  )
}

/** The worker that brings recorded events to telemetry, at least once, workspace by workspace. */
export function createEventOutbox(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly telemetry: Client<typeof EventService>
}): Outbox {
  const { database, runtime, telemetry } = deps
  return createOutbox({
    database,
    runtime,
    topic,
    async deliver(workspaceId, items, signal) {
      const events = items.map((item) => fromBinary(EventSchema, item.payload))
      const subject = serviceSubject(runtime.name, workspaceId)
      await telemetry.recordEvents({ workspaceId, events }, actingAs(subject, { signal }))
    },
  })
}

/** The most events of one call of `sendEvents`, over all workspaces, and the most bytes of them. */
export const eventBatchLimits = { maxEvents: 5_000, maxBytes: 768 * 1024 } as const

/**
 * Brings events of many workspaces to telemetry in one call, for a service that keeps its own record
 * of what it sent. At least once: after an error all of them are sent again. Events that telemetry
 * can never store are logged and count as sent.
 */
export async function sendEvents(
  deps: { readonly runtime: Runtime; readonly telemetry: Client<typeof EventService> },
  workspaces: NonNullable<MessageInitShape<typeof BatchRecordEventsRequestSchema>["workspaces"]>,
  signal?: AbortSignal,
): Promise<void> {
  const { runtime, telemetry } = deps
  const options = actingAs(serviceSubject(runtime.name, ""), signal === undefined ? {} : { signal })
  const { refused } = await telemetry.batchRecordEvents({ workspaces }, options)
  for (const { workspaceIndex, eventIndex, field } of refused) {
    const { workspaceId, events } = workspaces[workspaceIndex] ?? {}
    const { eventId } = events?.[eventIndex] ?? {}
    runtime.log.error({ workspaceId, eventId, field }, "telemetry refused an event")
  }
}
