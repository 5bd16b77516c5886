import type { HandlerContext, ServiceImpl } from "@connectrpc/connect"
import type {
  BatchRecordEventsRequest,
  EventService,
} from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { brokenField } from "./event-check.ts"
import { toEventRow } from "./event-row.ts"
import { recordEvents } from "./event-store.ts"

/** The most events of one batch, over all its workspaces. */
const maxBatchEvents = 5_000

export interface EventHandlerDeps {
  readonly database: Database
  /** Told which workspace has new events, after they are stored. */
  readonly arrived: (workspaceId: string) => void
}

export function eventHandlers({ database, arrived }: EventHandlerDeps) {
  return {
    async recordEvents({ workspaceId, events }, { signal }) {
      for (const [index, event] of events.entries()) {
        const field = brokenField(event)
        if (field !== undefined) throw invalid(`events[${index}].${field}`)
      }
      const rows = events.map(toEventRow)
      const recordedCount = await database.tenant(workspaceId, (tx) => recordEvents(tx, rows), {
        signal,
        name: "record events",
      })
      if (recordedCount > 0) arrived(workspaceId)
      return { recordedCount }
    },

    async batchRecordEvents(request, context) {
      requireServiceItself(context)
      requireBatchLimits(request)
      const refused: { workspaceIndex: number; eventIndex: number; field: string }[] = []
      let recordedCount = 0
      for (const [workspaceIndex, { workspaceId, events }] of request.workspaces.entries()) {
        const fields = events.map(brokenField)
        for (const [eventIndex, field] of fields.entries()) {
          if (field !== undefined) refused.push({ workspaceIndex, eventIndex, field })
        }
        const rows = events.filter((_, index) => fields[index] === undefined).map(toEventRow)
        const count = await database.tenant(workspaceId, (tx) => recordEvents(tx, rows), {
          signal: context.signal,
          name: "record events",
        })
        if (count > 0) arrived(workspaceId)
        recordedCount += count
      }
      return { recordedCount, refused }
    },
  } satisfies ServiceImpl<typeof EventService>
}

/**
 * Only a service on its own behalf, outside any workspace, brings events of many: it signs for each
 * of them by itself anyway, so that this identity lets it do nothing that it could not do, and it is
 * good for no request that names a workspace.
 */
function requireServiceItself(context: HandlerContext): void {
  const { kind, workspaceId, issuer } = callerOf(context)
  if (kind === "service" && workspaceId === "") return
  throw new RunwardenError("CALLER_NOT_ALLOWED", {
    caller: issuer,
    method: `${context.service.typeName}/${context.method.name}`,
  })
}

function requireBatchLimits({ workspaces }: BatchRecordEventsRequest): void {
  const count = workspaces.reduce((total, { events }) => total + events.length, 0)
  if (count > maxBatchEvents) {
    const maximum = String(maxBatchEvents)
    throw new RunwardenError("LIMIT_EXCEEDED", { limit: "events of a batch", maximum })
  }
  const seen = new Set<string>()
  for (const [index, workspace] of workspaces.entries()) {
    const id = workspace.workspaceId.toLowerCase()
    if (seen.has(id)) throw invalid(`workspaces[${index}].workspace_id`)
    seen.add(id)
  }
}

function invalid(field: string): RunwardenError {
  return new RunwardenError("INVALID_REQUEST", { field })
}
