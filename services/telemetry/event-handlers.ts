import type { MessageInitShape } from "@bufbuild/protobuf"
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect"
import type {
  BatchRecordEventsRequest,
  EventService,
  RefusedEventSchema,
} from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import type { Evaluator } from "./alert-evaluator.ts"
import { brokenField } from "./event-check.ts"
import { recordEvents, type WorkspaceEvents } from "./event-recorder.ts"

/** The most events of one batch, over all its workspaces. */
const maxBatchEvents = 5_000

export interface EventHandlerDeps {
  readonly database: Database
  readonly evaluator: Pick<Evaluator, "arrived" | "unwatched">
}

export function eventHandlers({ database, evaluator }: EventHandlerDeps) {
  async function record(workspaces: readonly WorkspaceEvents[], signal: AbortSignal) {
    const ids = workspaces.map(({ workspaceId }) => workspaceId)
    const counts = await recordEvents(database, workspaces, evaluator.unwatched(ids), signal)
    for (const [place, workspaceId] of ids.entries()) {
      if (counts[place] !== 0) evaluator.arrived(workspaceId)
    }
    return counts.reduce((total, count) => total + count, 0)
  }

  return {
    async recordEvents({ workspaceId, events }, { signal }) {
      for (const [index, event] of events.entries()) {
        const field = brokenField(event)
        if (field !== undefined) throw invalid(`events[${index}].${field}`)
      }
      return { recordedCount: await record([{ workspaceId, events }], signal) }
    },

    async batchRecordEvents(request, context) {
      requireServiceItself(context)
      requireBatchLimits(request)
      const { workspaces, refused } = sort(request)
      return { recordedCount: await record(workspaces, context.signal), refused }
    },
  } satisfies ServiceImpl<typeof EventService>
}

/** What can be stored, and what cannot, by its place. */
function sort(request: BatchRecordEventsRequest) {
  const refused: MessageInitShape<typeof RefusedEventSchema>[] = []
  const workspaces = request.workspaces.map(({ workspaceId, events }, workspaceIndex) => ({
    workspaceId,
    events: events.filter((event, eventIndex) => {
      const field = brokenField(event)
      if (field !== undefined) refused.push({ workspaceIndex, eventIndex, field })
      return field === undefined
    }),
  }))
  return { workspaces, refused }
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
