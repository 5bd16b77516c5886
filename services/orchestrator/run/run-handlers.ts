import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  CancelRunResponseSchema,
  ReleaseRunResponseSchema,
  RunService,
} from "../../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { Tx } from "../../../mesh/database.ts"
import { notFound } from "../../../mesh/errors.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { historyAfter } from "../journal/journal-store.ts"
import { type StartRunDeps, startRun } from "../start/start-run.ts"
import { runStateEnum, wordOf } from "../state-enum.ts"
import { type AnsweredChangeDeps, answerChanging } from "./answered-change.ts"
import { cancelRun, releaseRun } from "./answers.ts"
import { keptRun } from "./kept-answers.ts"
import { toRun, toRunEvents } from "./run-message.ts"
import { findRun, findRunState, listRuns } from "./run-store.ts"
import { nowOf } from "./snapshot.ts"
import { readSnapshot } from "./snapshot-store.ts"
import type { Watch } from "./watch.ts"

export interface RunHandlerDeps extends StartRunDeps, AnsweredChangeDeps {
  readonly watch: Watch
}

const runSizes = { default: 50, max: 200 }
const eventSizes = { default: 100, max: 1000 }

/** RunService. */
export function runHandlers(deps: RunHandlerDeps) {
  const { database, watch, limits } = deps
  return {
    startRun(request, context) {
      return startRun(deps, request, context)
    },

    async getRun({ workspaceId, runId }, { signal }) {
      const run = await database.tenant(workspaceId, (tx) => findRun(tx, workspaceId, runId), {
        signal,
      })
      if (run === undefined) throw notFound("run", runId)
      return { run: toRun(run, limits) }
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
        runs: page.map((run) => toRun(run, limits)),
        nextPageToken: runs.length > limit ? nextPage(filters, [page.at(-1)?.runId ?? ""]) : "",
      }
    },

    cancelRun(request, { signal }) {
      const { workspaceId, runId } = request
      const decide = async (tx: Tx) => {
        const snapshot = await readSnapshot(tx, workspaceId, { kind: "run", id: runId })
        if (snapshot === undefined) throw notFound("run", runId)
        const change = cancelRun(snapshot, request)
        const { run } = change?.after(nowOf(snapshot)) ?? snapshot
        return { change, response: create(CancelRunResponseSchema, { run: toRun(run, limits) }) }
      }
      return answerChanging(deps, RunService.method.cancelRun, request, decide, keptRun, signal)
    },

    releaseRun(request, { signal }) {
      const { workspaceId, runId } = request
      const decide = async (tx: Tx) => {
        const snapshot = await readSnapshot(tx, workspaceId, { kind: "run", id: runId })
        if (snapshot === undefined) throw notFound("run", runId)
        const change = releaseRun(snapshot)
        const run = toRun(change.after(nowOf(snapshot)).run, limits)
        return { change, response: create(ReleaseRunResponseSchema, { run }) }
      }
      return answerChanging(deps, RunService.method.releaseRun, request, decide, keptRun, signal)
    },

    async *watchRun({ workspaceId, runId, afterSequence }, { signal }) {
      const request = { workspaceId, runId, after: Number(afterSequence) }
      for await (const event of watch(request, signal)) yield { event }
    },

    async listRunEvents(request, { signal }) {
      const { workspaceId, runId } = request
      const filters = { workspaceId, runId }
      const page = readPage(request, filters, eventSizes)
      const after = Number(page.after?.[0] ?? 0)
      const limit = page.limit + 1
      const rows = await database.tenant(
        workspaceId,
        async (tx) => {
          const state = await findRunState(tx, workspaceId, runId)
          if (state === undefined) throw notFound("run", runId)
          return historyAfter(tx, workspaceId, runId, { after, limit })
        },
        { signal },
      )
      const found = rows.flatMap((row) => toRunEvents(row, after))
      const events = found.slice(0, page.limit)
      const last = String(events.at(-1)?.sequence ?? 0)
      return {
        events,
        nextPageToken: found.length > page.limit ? nextPage(filters, [last]) : "",
      }
    },
  } satisfies ServiceImpl<typeof RunService>
}
