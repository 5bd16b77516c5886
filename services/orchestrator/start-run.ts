/** StartRun: check and pin everything first, then store the run whole, then go on with it. */
import { create } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import type { CallOptions, Client } from "@connectrpc/connect"
import {
  RunService,
  type StartRunRequest,
  type StartRunResponse,
  StartRunResponseSchema,
} from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import type { Caller } from "../../mesh/identity.ts"
import { answerAfter, pruneAnswers, requestKeyOf } from "../../mesh/request-id.ts"
import { Change } from "./change.ts"
import type { Executor } from "./executor.ts"
import { planRun } from "./new-run.ts"
import { toRun } from "./run-message.ts"
import { clockFrom, type Snapshot } from "./snapshot.ts"
import type { StartStore } from "./start-store.ts"
import { startedBefore } from "./started-before.ts"

export interface StartRunDeps {
  readonly database: Database
  readonly starts: StartStore
  readonly tools: Client<typeof ExecutionService>
  readonly executor: Executor
  readonly runTimeoutMs: number
  /** Told after every stored change, and when it was stored. */
  stored(change: Change, at: Date): void
}

/** Starts a run, or answers what was answered to this request before. */
export async function startRun(
  deps: StartRunDeps,
  request: StartRunRequest,
  caller: Caller,
  options: CallOptions,
): Promise<StartRunResponse> {
  const key = requestKeyOf(RunService.method.startRun, request)
  try {
    const snapshot = await planRun(deps.tools, request, caller, options)
    // Given back once the run has begun here, or never will.
    using lease = deps.executor.reserve()
    const change = new Change(snapshot)
    change.open(lease !== undefined)
    const timeoutMs = timeoutOf(request, deps)
    const outcome = await deps.starts.start({ change, key, timeoutMs, lease })
    if (outcome.kind === "known") throw new Error("the request's id was used before")
    const begun = startedAt(change, outcome.at, timeoutMs)
    deps.stored(change, outcome.at)
    if (lease === undefined) deps.executor.poke()
    else deps.executor.begin(begun, lease)
    // The answer stands, whether old ones could be taken away or not.
    await pruneAnswers(deps.database, request).catch(() => {})
    return create(StartRunResponseSchema, { run: toRun(begun.run) })
  } catch (error) {
    const runId = String(await answerAfter(error, deps.database, key, options.signal))
    const run = await startedBefore(deps.database, request.workspaceId, runId)
    return create(StartRunResponseSchema, { run })
  }
}

/** The new run with its times, as the database gave them: nothing is read back. */
function startedAt(change: Change, at: Date, timeoutMs: number): Snapshot {
  const { run, ...others } = change.after(at)
  const deadline = new Date(at.getTime() + timeoutMs)
  return { ...others, run: { ...run, createTime: at, deadline }, clock: clockFrom(at) }
}

function timeoutOf({ timeout }: StartRunRequest, { runTimeoutMs }: StartRunDeps): number {
  return timeout === undefined ? runTimeoutMs : durationMs(timeout)
}
