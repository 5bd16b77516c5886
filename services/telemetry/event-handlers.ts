import type { ServiceImpl } from "@connectrpc/connect"
import type { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { toEventRow } from "./event-row.ts"
import { recordEvents } from "./event-store.ts"

export interface EventHandlerDeps {
  readonly database: Database
  /** Told which workspace has new events, after they are stored. */
  readonly arrived: (workspaceId: string) => void
}

export function eventHandlers({ database, arrived }: EventHandlerDeps) {
  return {
    async recordEvents(request, { signal }) {
      const rows = request.events.map(toEventRow)
      const recordedCount = await database.tenant(
        request.workspaceId,
        (tx) => recordEvents(tx, rows),
        { signal, name: "record events" },
      )
      if (recordedCount > 0) arrived(request.workspaceId)
      return { recordedCount }
    },
  } satisfies ServiceImpl<typeof EventService>
}
