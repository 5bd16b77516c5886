/**
 * StartRun: check and pin everything, judge the first step, store the run whole, go on with it.
 *
 * 1. A run is answered once it is stored, and stored once, however often its request is sent.
 * 2. The first step is judged before the run is stored where moderation answers at once, so that run
 *    and admission are one commit. Where it does not, the run is stored without: nobody who starts a
 *    run waits for moderation.
 */
import { create } from "@bufbuild/protobuf"
import { type Duration, durationMs, timestampDate } from "@bufbuild/protobuf/wkt"
import type { HandlerContext } from "@connectrpc/connect"
import {
  BusyThreadPolicy,
  type StartRunRequest,
  type StartRunResponse,
  StartRunResponseSchema,
} from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { isCheckViolation } from "../../../mesh/database.ts"
import { forgetDeadline, watchDeadline } from "../../../mesh/deadline-timers.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { callerOf, outgoing } from "../../../mesh/identity.ts"
import { answerAfter, pruneAnswers, type RequestKey } from "../../../mesh/request-id.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { usageLimit } from "../budget/budget-store.ts"
import { warnOfLimits } from "../budget/run-limits.ts"
import { Change } from "../change/change.ts"
import type { Executor } from "../engine/executor.ts"
import { prepareStep, type StepDeps } from "../engine/step.ts"
import { toRun } from "../run/run-message.ts"
import { type RunWaitDeps, waitForRest } from "../run/run-wait.ts"
import { clockFrom, type RunRecord, type Snapshot } from "../run/snapshot.ts"
import { Scope } from "../scope.ts"
import {
  askForTurn,
  isTurnLost,
  lineLimitError,
  startInstead,
  type Turn,
} from "../thread/thread-start.ts"
import { type CheckedPlan, checkRequest, planRun } from "./new-run.ts"
import { startKeyOf } from "./start-key.ts"
import type { Begin, Start, Started, StartStore } from "./start-store.ts"
import { startedBefore } from "./started-before.ts"

export interface StartRunDeps extends StepDeps, RunWaitDeps {
  readonly starts: StartStore
  readonly runTimeoutMs: number
  /** Told after every stored change, and when it was stored. */
  stored(change: Change, at: Date): void
  readonly reached: Runtime["reached"]
}

/** The longest that a run is not stored for the sake of its first step. */
const firstStepMs = 200
/** What is left of a request's deadline for the answer. */
const answerMs = 200

/** Starts a run, or finds the one that this request has started before. */
export async function startRun(
  deps: StartRunDeps,
  request: StartRunRequest,
  context: HandlerContext,
): Promise<StartRunResponse> {
  const checked = checkRequest(request, deps.limits)
  const key = startKeyOf(request, checked.texts)
  const { run, end } = await startInTurn(deps, request, checked, key, context).catch(
    async (error: unknown): Promise<Begun> => {
      const runId = String(await answerAfter(error, deps.database, key, context.signal))
      const before = await startedBefore(deps.database, request.workspaceId, runId, checked.bytes)
      return { run: before, end: deps.executor.endOf(runId) }
    },
  )
  const leftMs = (context.timeoutMs() ?? maxWaitMs) - answerMs
  const waitMs = Math.min(millisOf(request.wait), leftMs, maxWaitMs)
  const rested = waitMs > 0 ? await waitForRest(deps, run, end, waitMs, context.signal) : run
  return create(StartRunResponseSchema, { run: toRun(rested, deps.limits, request.plan) })
}

/** A stored run, and when this replica has no more to do for it, where it carries it out. */
interface Begun {
  readonly run: RunRecord
  readonly end: ReturnType<Executor["endOf"]>
}

/** Starts a run as its thread lets it; asks again where another run of the thread came first. */
async function startInTurn(
  deps: StartRunDeps,
  request: StartRunRequest,
  checked: CheckedPlan,
  key: RequestKey,
  context: HandlerContext,
): Promise<Begun> {
  const { database, tools } = deps
  const planned = await planRun(tools, request, checked, callerOf(context), outgoing(context))
  for (let mayAdmit = true; ; ) {
    if (context.signal.aborted) throw new RunwardenError("CANCELLED", {})
    const begin = beginOf(request)
    const turn = await askForTurn(database, planned.run, request.onBusyThread)
    try {
      const begun = await start(deps, request, planned, key, { turn, begin, mayAdmit })
      if (begun !== undefined) return begun
    } catch (error) {
      // Stored without its first step, the run is told by what budget it fails.
      if (isCheckViolation(error, usageLimit) && mayAdmit) mayAdmit = false
      else if (!isTurnLost(error)) throw lineLimitError(error)
    }
  }
}

/** How a run is to be stored. */
interface Manner {
  readonly turn: Turn
  readonly begin: Begin | undefined
  readonly mayAdmit: boolean
}

/** Undefined where another run of the thread came first. */
async function start(
  deps: StartRunDeps,
  request: StartRunRequest,
  found: Snapshot,
  key: RequestKey,
  { turn, begin, mayAdmit }: Manner,
): Promise<Begun | undefined> {
  const { executor, starts } = deps
  const timeoutMs = request.timeout === undefined ? deps.runTimeoutMs : millisOf(request.timeout)
  const isNow = turn.kind === "now" && begin === undefined
  const clock = starts.clock()
  // As near as it is known before the run is stored: a first step that waits is due by then.
  const deadline = new Date((clock?.now() ?? Date.now()) + timeoutMs)
  const reason = begin === undefined ? (isNow ? "" : "thread_busy") : "scheduled"
  const planned = { ...found, run: { ...found.run, deadline, reason } }
  // Given back once the run has begun here, or never will.
  using lease = isNow ? executor.reserve() : undefined
  const isReady = mayAdmit && lease !== undefined && clock !== undefined
  const change = isReady
    ? await firstStep(deps, { ...planned, clock })
    : opened(planned, lease !== undefined)
  warnOfLimits(change, deps.limits)
  const isAdmitted = change.calls.some(({ state }) => state === "executing")
  if (isAdmitted) deps.reached("before_intent")
  const stored = { change, key, timeoutMs, begin, lease }
  const outcome = await (turn.kind === "instead" ? instead(deps, stored) : starts.start(stored))
  if (outcome === undefined) return undefined
  if (outcome.kind === "known") throw new Error("the request's id was used before")
  const begun = startedAt(change, outcome.at, timeoutMs, begin)
  deps.stored(change, outcome.at)
  if (change.approvals.length > 0) deps.reached("during_approval_wait")
  if (lease === undefined) executor.poke()
  const isHeld = lease !== undefined && change.claim.kind === "keep"
  const end = isHeld ? executor.begin(begun, lease, change) : undefined
  // The answer stands, whether old ones could be taken away or not.
  await pruneAnswers(deps.database, request).catch(() => {})
  return { run: begun.run, end }
}

/** Stores a run and cancels the others of its thread, all or nothing. */
async function instead(deps: StartRunDeps, start: Start): Promise<Started | undefined> {
  const done = await startInstead(deps.database, start, deps.approval.maxOpen)
  if (done === undefined) return undefined
  for (const change of done.cancelled) deps.stored(change, done.at)
  return { kind: "started", at: done.at }
}

/** The run with its first step as far as it can be taken before it is stored. */
async function firstStep(deps: StartRunDeps, planned: Snapshot): Promise<Change> {
  const change = opened(planned, true)
  const scope = new Scope()
  const late = { expire: () => scope.end("moderation takes its time") }
  const slot = watchDeadline(firstStepMs, late)
  try {
    await prepareStep(deps, change, 0, scope)
    return change
  } catch (error) {
    if (!scope.isEnded) throw error
    return opened(planned, true)
  } finally {
    forgetDeadline(slot, late)
  }
}

function opened(planned: Snapshot, isClaimed: boolean): Change {
  const change = new Change(planned)
  change.open(isClaimed)
  return change
}

/** The new run with its times, as the database gave them: nothing is read back. */
function startedAt(
  change: Change,
  at: Date,
  timeoutMs: number,
  begin: Begin | undefined,
): Snapshot {
  const { run, ...others } = change.after(at)
  const time = begin === undefined ? at : timeOf(begin, at)
  const startTime = time > at ? time : undefined
  const deadline = new Date((startTime ?? at).getTime() + timeoutMs)
  const clock = clockFrom(at)
  return { ...others, run: { ...run, createTime: at, startTime, deadline }, clock }
}

/** When the run is to begin; undefined for at once. Throws where the request says two things. */
function beginOf({ startTime, delay, onBusyThread }: StartRunRequest): Begin | undefined {
  if (startTime === undefined && delay === undefined) return undefined
  if (startTime !== undefined && delay !== undefined) throw contradiction("delay", "start_time")
  const begin: Begin =
    delay === undefined && startTime !== undefined
      ? { at: timestampDate(startTime) }
      : { afterMs: millisOf(delay) }
  const { REJECT, CANCEL_OTHER } = BusyThreadPolicy
  if (onBusyThread === REJECT || onBusyThread === CANCEL_OTHER) {
    throw contradiction("on_busy_thread", delay === undefined ? "start_time" : "delay")
  }
  return begin
}

function contradiction(field: string, other: string): RunwardenError {
  const violations = [{ field, description: `cannot be given together with ${other}` }]
  return new RunwardenError("INVALID_REQUEST", { field }, { violations })
}

function timeOf(begin: Begin, now: Date): Date {
  return "at" in begin ? begin.at : new Date(now.getTime() + begin.afterMs)
}

const maxWaitMs = 60_000

function millisOf(duration: Duration | undefined): number {
  return duration === undefined ? 0 : durationMs(duration)
}
