import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  CancelRunResponseSchema,
  RunService,
} from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { notFound } from "../../mesh/errors.ts"
import { callerOf, outgoing } from "../../mesh/identity.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { type Answered, cancelRun } from "./answers.ts"
import type { Change } from "./change.ts"
import { entriesAfter } from "./run-event-store.ts"
import { toRun, toRunEvent } from "./run-message.ts"
import { findRun, findRunState, listRuns } from "./run-store.ts"
import type { RunRecord } from "./snapshot.ts"
import { type StartRunDeps, startRun } from "./start-run.ts"
import { runStateEnum, wordOf } from "./state-enum.ts"
import type { Watch } from "./watch.ts"

export interface RunHandlerDeps extends StartRunDeps {
  readonly watch: Watch
  stored(change: Change): void
}

const runSizes = { default: 50, max: 200 }
const eventSizes = { default: 100, max: 1000 }

/** RunService. */
export function runHandlers(deps: RunHandlerDeps) {
  const { database, watch } = deps
  return {
    startRun(request, context) {
      return startRun(deps, request, callerOf(context), outgoing(context))
    },

    async getRun({ workspaceId, runId }, { signal }) {
      const run = await database.tenant(workspaceId, (tx) => findRun(tx, workspaceId, runId), {
        signal,
      })
      if (run === undefined) throw notFound("run", runId)
      return { run: toRun(run) }
    },

    async listRuns(request, { signal }) {
      const { workspaceId, threadId } = request
      const states = request.states.flatMap((state) => wordOf(runStateEnum, state) ?? [])
      const filters = { workspaceId, threadId, states }
      const { limit, after } = readPage(request, filters, runSizes)
      const runs = await database.tenant(
        workspaceId,
        (tx) =>
          listRuns(tx, workspaceId, { states, threadId }, { limit: limit + 1, after: after?.[0] }),
        { signal },
      )
      const page = runs.slice(0, limit)
      return {
        runs: page.map(toRun),
        nextPageToken: runs.length > limit ? nextPage(filters, [page.at(-1)?.runId ?? ""]) : "",
      }
    },

    async cancelRun(request, { signal }) {
      let cancelled: Answered<RunRecord> | undefined
      const response = await answerOnce(
        database,
        RunService.method.cancelRun,
        request,
        async (tx) => {
          cancelled = await cancelRun(tx, request)
          return create(CancelRunResponseSchema, { run: toRun(cancelled.resource) })
        },
        { signal },
      )
      if (cancelled?.change !== undefined) deps.stored(cancelled.change)
      return response
    },

    async *watchRun({ workspaceId, runId, afterSequence }, { signal }) {
      const request = { workspaceId, runId, after: Number(afterSequence) }
      for await (const entry of watch(request, signal)) yield { event: toRunEvent(entry) }
    },

    async listRunEvents(request, { signal }) {
      const { workspaceId, runId } = request
      const filters = { workspaceId, runId }
      const { limit, after } = readPage(request, filters, eventSizes)
      const entries = await database.tenant(
        workspaceId,
        async (tx) => {
          const state = await findRunState(tx, workspaceId, runId)
          if (state === undefined) throw notFound("run", runId)
          const page = { after: Number(after?.[0] ?? 0), limit: limit + 1 }
          return entriesAfter(tx, workspaceId, runId, page)
        },
        { signal },
      )
      const page = entries.slice(0, limit)
      const last = String(page.at(-1)?.sequence ?? 0)
      return {
        events: page.map(toRunEvent),
        nextPageToken: entries.length > limit ? nextPage(filters, [last]) : "",
      }
    },
  } satisfies ServiceImpl<typeof RunService>
}
