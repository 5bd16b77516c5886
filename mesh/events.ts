import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import { timestampNow } from "@bufbuild/protobuf/wkt"
import type { Client } from "@connectrpc/connect"
import { EventSchema } from "../gen/runwarden/telemetry/v1/event_pb.ts"
import type { EventService } from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
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

/** Events of one workspace, as whoever sends them made them. */
export interface WorkspaceEvents {
  readonly workspaceId: string
  readonly events: readonly MessageInitShape<typeof EventSchema>[]
}

/** What telemetry takes in one call: so many events, and 1 MiB with room for what is not counted. */
const maxCallEvents = 5_000
const maxCallBytes = 900 * 1024

/**
 * Brings events of many workspaces to telemetry, in as few calls as it takes them in. For a service
 * that keeps its own record of what it sent: at least once, and after an error all of them are sent
 * again. Events that telemetry can never store are logged and count as sent.
 */
export async function sendEvents(
  deps: { readonly runtime: Runtime; readonly telemetry: Client<typeof EventService> },
  all: readonly WorkspaceEvents[],
  signal?: AbortSignal,
): Promise<void> {
  const { runtime, telemetry } = deps
  const options = signal === undefined ? {} : { signal }
  for (const workspaces of callsOf(all)) {
    const { refused } = await telemetry.batchRecordEvents(
      { workspaces },
      actingAs(serviceSubject(runtime.name, ""), options),
    )
    for (const { workspaceIndex, eventIndex, field } of refused) {
      const { workspaceId, events } = workspaces[workspaceIndex] ?? {}
      const { eventId } = events?.[eventIndex] ?? {}
      runtime.log.error({ workspaceId, eventId, field }, "telemetry refused an event")
    }
  }
}

type Call = { readonly workspaceId: string; readonly events: WorkspaceEvents["events"][number][] }[]

function callsOf(all: readonly WorkspaceEvents[]): readonly Call[] {
  const calls: Call[] = []
  let call: Call = []
  let count = 0
  let bytes = 0
  for (const { workspaceId, events } of all) {
    let part: Call[number] | undefined
    for (const event of events) {
      const size = sizeAtMost(event) + (part === undefined ? workspaceBytes : 0)
      if (call.length === 0 || count === maxCallEvents || bytes + size > maxCallBytes) {
        call = []
        calls.push(call)
        part = undefined
        count = 0
        bytes = 0
      }
      if (part === undefined) {
        part = { workspaceId, events: [] }
        call.push(part)
      }
      part.events.push(event)
      count += 1
      bytes += size
    }
  }
  return calls
}

/** A workspace's id, and the frame of its events. */
const workspaceBytes = 64
/** Ids, times, numbers and tags of an event. */
const fixedBytes = 192
const maxBytesOfUnit = 3

/** What an event takes on the wire at most; counted from its texts, for encoding it would cost more. */
function sizeAtMost({ payload }: MessageInitShape<typeof EventSchema>): number {
  let units = 0
  for (const value of Object.values(payload?.value ?? {})) {
    if (typeof value === "string") units += value.length
  }
  return fixedBytes + maxBytesOfUnit * units
}
