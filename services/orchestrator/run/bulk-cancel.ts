/**
 * Cancelling the live runs that fit a filter, a page at a time.
 *
 * 1. Each run is cancelled by a change of its own; those of a page are decided side by side, so that
 *    they are stored in groups.
 * 2. The answer to a request is looked for before anything is done: the same request again must not
 *    cancel runs that have been started since.
 */
import { create, fromBinary } from "@bufbuild/protobuf"
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type BulkCancelRunsRequest,
  BulkCancelRunsResponseSchema,
  BulkRunService,
} from "../../../gen/runwarden/orchestrator/v1/bulk_run_service_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { answerAfter, answerOnce, requestKeyOf } from "../../../mesh/request-id.ts"
import { runStateEnum, wordOf } from "../state-enum.ts"
import { refuseNul } from "../text.ts"
import type { AnsweredChangeDeps } from "./answered-change.ts"
import { cancelRun } from "./answers.ts"
import { countLiveRuns, findLiveRuns, type LiveRunFilter } from "./bulk-run-store.ts"
import { readSnapshot } from "./snapshot-store.ts"

const sizes = { default: 100, max: 500 }
/** Runs of a page that are decided at the same time: few enough to leave connections for others. */
const sideBySide = 8

const { bulkCancelRuns: method } = BulkRunService.method

/** BulkRunService. */
export function bulkRunHandlers(deps: AnsweredChangeDeps) {
  const { database } = deps
  return {
    async bulkCancelRuns(request, { signal }) {
      const { workspaceId } = request
      const filter = readFilter(request)
      refuseNul({ plan_name: filter.planName })
      const filters = { list: "bulk_cancel", workspaceId, ...filter, states: [...filter.states] }
      const { limit, after } = readPage(request, filters, sizes)
      const page = { limit: limit + 1, after: after?.[0] }
      const read = { name: "bulkCancelRuns", signal, isOneRead: true }
      if (request.dryRun) {
        const matched = await database.tenant(
          workspaceId,
          (tx) => countLiveRuns(tx, workspaceId, filter, page.after),
          read,
        )
        return create(BulkCancelRunsResponseSchema, { matchedCount: BigInt(matched) })
      }
      const before = await answeredBefore(deps, request, signal)
      if (before !== undefined) return before
      const found = await database.tenant(
        workspaceId,
        (tx) => findLiveRuns(tx, workspaceId, filter, page),
        read,
      )
      const runIds = found.slice(0, limit)
      const isCancelled = await cancelAll(deps, workspaceId, runIds, signal)
      const response = create(BulkCancelRunsResponseSchema, {
        runIds: runIds.filter((runId) => isCancelled.has(runId)),
        nextPageToken: found.length > limit ? nextPage(filters, [runIds.at(-1) ?? ""]) : "",
      })
      return answerOnce(database, method, request, async () => response, { signal })
    },
  } satisfies ServiceImpl<typeof BulkRunService>
}

function readFilter(request: BulkCancelRunsRequest): LiveRunFilter {
  const states = request.states.flatMap((state) => wordOf(runStateEnum, state) ?? [])
  return {
    states: states.length === 0 ? ["queued", "running", "requires_action"] : states,
    threadId: request.threadId,
    requesterId: request.actorId,
    planName: request.planName,
    startedAfter: timeText(request.startedAfter),
    startedBefore: timeText(request.startedBefore),
  }
}

function timeText(time: Timestamp | undefined): string {
  return time === undefined ? "" : timestampDate(time).toISOString()
}

/** The answer that the request was given before. */
async function answeredBefore(
  { database }: AnsweredChangeDeps,
  request: BulkCancelRunsRequest,
  signal: AbortSignal,
) {
  const fresh = new Error("the request is new")
  try {
    const answer = await answerAfter(fresh, database, requestKeyOf(method, request), signal)
    return fromBinary(BulkCancelRunsResponseSchema, answer)
  } catch (error) {
    if (error === fresh) return undefined
    throw error
  }
}

/** Cancels runs; answers which of them were still live. */
async function cancelAll(
  deps: AnsweredChangeDeps,
  workspaceId: string,
  runIds: readonly string[],
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const left = runIds.values()
  const cancelled = new Set<string>()
  const work = async () => {
    for (const runId of left) {
      if (await cancelOne(deps, workspaceId, runId, signal)) cancelled.add(runId)
    }
  }
  const ends = await Promise.allSettled(Array.from({ length: sideBySide }, work))
  for (const end of ends) if (end.status === "rejected") throw end.reason
  return cancelled
}

async function cancelOne(
  { database, changes, stored }: AnsweredChangeDeps,
  workspaceId: string,
  runId: string,
  signal: AbortSignal,
): Promise<boolean> {
  const read = { name: "readRun", signal, isOneRead: true }
  for (;;) {
    if (signal.aborted) throw new RunwardenError("CANCELLED", {}, { cause: signal.reason })
    const snapshot = await database.tenant(
      workspaceId,
      (tx) => readSnapshot(tx, workspaceId, { kind: "run", id: runId }),
      read,
    )
    if (snapshot === undefined || snapshot.run.endTime !== undefined) return false
    const change = cancelRun(snapshot, { etag: "" })
    if (change === undefined) return false
    const outcome = await changes.store(change)
    if (outcome.kind !== "stored") continue
    stored(change, outcome.at)
    return true
  }
}
