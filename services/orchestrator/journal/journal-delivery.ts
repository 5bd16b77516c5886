/**
 * Tells telemetry what the journals say, at least once.
 *
 * Owns: the loop that looks for workspaces that are due, and what it has claimed of them.
 * States: idle → running (start) → stopped (disposal: what is under way is given up, and delivered
 * again by whoever comes next).
 *
 * 1. A cursor moves only after telemetry has the events before it; events that are sent again have
 *    the same ids, by which telemetry knows them.
 * 2. Nobody waits for a delivery: it comes a moment after the change, so that one look serves many.
 * 3. While nothing is due, a look is one small statement every few seconds; notices of this process
 *    are what it usually acts on.
 */
import type { Client } from "@connectrpc/connect"
import type { EventService } from "../../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { sendEvents } from "../../../mesh/events.ts"
import { newId } from "../../../mesh/ids.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { pause, retryDelay } from "../pause.ts"
import {
  claimDueJournals,
  type DayWarning,
  type DeliveredRow,
  type DeliveryClaim,
  postponeDelivery,
  readUndelivered,
  settleDelivered,
  settleWarnings,
} from "./journal-delivery-store.ts"
import { toTelemetry, toWarning } from "./journal-events.ts"

export interface JournalDelivery extends AsyncDisposable {
  start(): void
  /** Says that a journal grew. */
  poke(): void
}

interface DeliveryDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly telemetry: Client<typeof EventService>
  /** How long another replica leaves alone what this one has claimed; longer than that is sent twice. */
  readonly leaseMs: number
}

const gatherMs = 250
const pollMs = 5_000
const firstBackOffMs = 250
/** Workspaces of one look, and rows of each: together less than a batch may hold. */
const maxWorkspaces = 64
const maxRows = 1_024
const maxEvents = 4_000

export function createJournalDelivery({
  database,
  runtime,
  telemetry,
  leaseMs,
}: DeliveryDeps): JournalDelivery {
  const { log, reached } = runtime
  const owner = newId()
  const stop = new AbortController()
  let poked = Promise.withResolvers<void>()
  let loop: Promise<void> | undefined

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      const hasMore = await look().catch((error: unknown) => {
        if (!stop.signal.aborted) log.warn({ err: error }, "telling telemetry failed")
        return false
      })
      if (!hasMore) await rest()
    }
  }

  /** Until something was appended, and then a moment longer; or until it is time to look anyway. */
  async function rest(): Promise<void> {
    const timer = new AbortController()
    const waited = pause(pollMs * (0.5 + Math.random() / 2), timer.signal)
    await Promise.race([poked.promise, waited])
    timer.abort()
    await pause(gatherMs, stop.signal)
    poked = Promise.withResolvers<void>()
  }

  /** Delivers what is due; true where there may be more. */
  async function look(): Promise<boolean> {
    const options = { owner, leaseMs, limit: maxWorkspaces }
    const claims = await claimDueJournals(database, options, stop.signal)
    if (claims.length === 0) return false
    try {
      return await deliver(claims)
    } catch (error) {
      if (stop.signal.aborted) return false
      log.warn({ err: error, workspaces: claims.length }, "telling telemetry failed")
      await postpone(claims)
      return false
    }
  }

  async function deliver(claims: readonly DeliveryClaim[]): Promise<boolean> {
    const workspaceIds = claims.map(({ workspaceId }) => workspaceId)
    const rowsEach = Math.ceil(maxRows / claims.length)
    const rows = await readUndelivered(database, workspaceIds, rowsEach, stop.signal)
    const { batches, isCut } = gather(rows)
    const workspaces = [...batches].map(([workspaceId, { events }]) => ({ workspaceId, events }))
    const sent = workspaces.filter(({ events }) => events.length > 0)
    if (sent.length > 0) await sendEvents({ runtime, telemetry }, sent, stop.signal)
    reached("during_outbox_publish")
    const warned = [...batches].flatMap(([workspaceId, { warning }]) =>
      warning === undefined ? [] : [{ workspaceId, day: warning.day }],
    )
    if (warned.length > 0) await settleWarnings(database, warned)
    const positions = workspaceIds.map((id): [string, number] => [id, batches.get(id)?.last ?? 0])
    await settleDelivered(database, owner, new Map(positions))
    const isFull = [...batches.values()].some((batch) => batch.rows >= rowsEach)
    return isCut || isFull || claims.length === maxWorkspaces
  }

  async function postpone(claims: readonly DeliveryClaim[]): Promise<void> {
    const waits = claims.map(({ workspaceId, attempts }): [string, number] => [
      workspaceId,
      retryDelay(firstBackOffMs, attempts + 1),
    ])
    await postponeDelivery(database, owner, new Map(waits))
  }

  return {
    start() {
      loop ??= run()
    },
    poke() {
      poked.resolve()
    },
    async [Symbol.asyncDispose]() {
      stop.abort()
      poked.resolve()
      await loop
    },
  }
}

/** What of one workspace is sent at once. */
interface Batch {
  readonly events: ReturnType<typeof toTelemetry>
  readonly warning: DayWarning | undefined
  /** Position of the last row of it. */
  last: number
  rows: number
}

function newBatch({ workspaceId, warning }: DeliveredRow): Batch {
  const event = warning === null ? undefined : toWarning(workspaceId, warning)
  const events = event === undefined ? [] : [event]
  return { events, warning: warning ?? undefined, last: 0, rows: 0 }
}

/** The rows as batches by workspace, up to what one request may hold. */
function gather(rows: readonly DeliveredRow[]) {
  const batches = new Map<string, Batch>()
  let count = 0
  for (const row of rows) {
    const events = toTelemetry(row)
    if (count > 0 && count + events.length > maxEvents) return { batches, isCut: true }
    count += events.length
    const batch = batches.get(row.workspaceId) ?? newBatch(row)
    batches.set(row.workspaceId, batch)
    batch.events.push(...events)
    batch.last = row.position
    batch.rows += 1
  }
  return { batches, isCut: false }
}
