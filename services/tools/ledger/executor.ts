/**
 * The moving part of the ledger: carries out what ledger.ts decides.
 *
 * Owns: the order of record, send, record; the calls that are running.
 *
 * Invariants:
 * 1. The intent is committed before the call is sent, and no transaction is open while it is.
 * 2. One request sends at most once. Whether a call is repeated is its caller's decision.
 * 3. Nothing is sent, and nobody waits for a provider, once the lease may be over (running-calls.ts).
 * 4. A caller that has gone stops a call that only reads; any other runs to its own deadline, so
 *    that its outcome is recorded. CancelExecution stops every kind.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../../../mesh/database.ts"
import { actingAs, type Subject } from "../../../mesh/identity.ts"
import type { Runtime } from "../../../mesh/service.ts"
import {
  type Admitted,
  admitLocked,
  admitSeen,
  type Held,
  inProgress,
  leaseLost,
  sealLocked,
} from "./admission.ts"
import { type Answer, afterAnswer, settledBy } from "./answer.ts"
import type { ClaimItem } from "./execution-group-store.ts"
import {
  type ExecutionKey,
  type ExecutionRow,
  type Intent,
  requestCancel,
  seeEpoch,
} from "./execution-store.ts"
import type { LedgerWriter } from "./ledger-writer.ts"
import { type AnswerRules, askProvider, callProvider, type ProviderCall } from "./provider-call.ts"
import { type Executed, giveBack, recordOutcome } from "./recording.ts"
import type { RunningCall, RunningCalls } from "./running-calls.ts"

export interface ExecutorConfig {
  /** How long a call is held without being renewed; another request takes it over after that. */
  readonly leaseMs: number
  /** How long a provider is given to tell the outcome of a call whose answer was lost. */
  readonly probeTimeoutMs: number
  /** The largest result that is stored, as JSON. */
  readonly maxResultBytes: number
}

export interface ExecutorDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly writer: LedgerWriter
  readonly running: RunningCalls
  readonly config: ExecutorConfig
}

/** An admitted call, checked against token and schema. `tool` in the ledger is its full name. */
export interface Call {
  readonly intent: ClaimItem
  readonly request: ProviderCall
  /** For whom the provider is called. */
  readonly subject: Subject
  /** Until when the caller waits, by the monotonic clock. */
  readonly deadline: number
  readonly callerSignal: AbortSignal
}

/** A call that must not run unless it does already, and whom to ask about it. */
export type SealedCall = Pick<Call, "subject" | "request" | "intent">

export interface Executor extends AsyncDisposable {
  execute(call: Call): Promise<Executed>
  /** Closes a key for good unless somebody is sending it; the row as it is then. */
  seal(call: SealedCall, signal: AbortSignal): Promise<ExecutionRow>
  /** Stops the sending of a key, wherever it is; false where there is none. */
  cancel(key: ExecutionKey & Pick<Intent, "runId" | "epoch">, signal: AbortSignal): Promise<boolean>
}

/** How long a stop waits for calls that are running. */
const drainMs = 15_000
/** A sending that has less time than this would only be lost. */
const minSendingMs = 20
const recordMs = 500

export function createExecutor(deps: ExecutorDeps): Executor {
  const { database, runtime, running } = deps
  const executing = new Set<Promise<unknown>>()

  function track<T>(work: Promise<T>): Promise<T> {
    const settled: Promise<unknown> = work.then(
      () => executing.delete(settled),
      () => executing.delete(settled),
    )
    executing.add(settled)
    return work
  }

  return {
    execute: (call) => track(execute(deps, call)),
    seal: (call, signal) => track(sealCall(deps, call, signal)),
    async cancel(key, signal) {
      const isSending = await database.tenant(
        key.workspaceId,
        async (tx) => {
          const runEpoch = await seeEpoch(tx, key)
          if (key.epoch < runEpoch) throw leaseLost(key)
          return requestCancel(tx, key)
        },
        { signal, name: "cancel execution" },
      )
      running.cancel(key)
      return isSending
    },
    async [Symbol.asyncDispose]() {
      // What is cut off here is found out again by its effect class, as after a crash.
      const drained = new AbortController()
      const limit = sleep(drainMs, undefined, { signal: drained.signal }).catch(() => undefined)
      await Promise.race([Promise.all(executing), limit])
      drained.abort()
      runtime.log.debug({ cut: executing.size }, "executions drained")
      running.stopAll()
    },
  }
}

async function execute(deps: ExecutorDeps, call: Call): Promise<Executed> {
  const { intent } = call
  const claim = await deps.writer.claim(intent)
  if (claim.kind === "lease_lost") throw leaseLost(intent)
  if (claim.kind === "claimed") {
    return send(deps, call, { ...claim, attempt: 1, maybeApplied: false })
  }
  const admitted = await admitTaken(deps, call)
  if (admitted.next === "send") return send(deps, call, admitted.held)
  const { row } = admitted
  if (admitted.next === "replay") return { row, isReplayed: true }
  const settled = await probe(deps, call, row)
  return { row: settled, isReplayed: settled.state === row.state }
}

/** What to do where the key has a row: most of it can be told by looking, the rest under its lock. */
async function admitTaken(deps: ExecutorDeps, { intent }: Call): Promise<Admitted> {
  const seen = admitSeen(await deps.writer.look(intent), intent)
  if (seen !== undefined) return seen
  const { leaseMs } = deps.config
  const leasedAt = performance.now()
  return deps.database.tenant(
    intent.workspaceId,
    (tx) => admitLocked(tx, intent, { leaseMs, leasedAt }),
    { name: "admit execution" },
  )
}

/** Sends once, and records what came of it. */
async function send(deps: ExecutorDeps, call: Call, held: Held): Promise<Executed> {
  const { runtime } = deps
  const { effect } = call.request.tool
  using sending = deps.running.begin(call.intent, held.attempt, held.leasedAt)
  if (effect === "read") sending.follow(call.callerSignal) // (4)
  runtime.reached("after_send")
  const timeoutMs = providerTimeoutMs(deps.config, call)
  const isWanted = timeoutMs >= minSendingMs && !call.callerSignal.aborted
  const answer =
    isWanted && sending.stopped === undefined // (3)
      ? await callProvider(
          call.request,
          rulesOf(deps, held.attempt),
          actingAs(call.subject, { timeoutMs, signal: sending.signal }),
        )
      : unwanted
  runtime.reached("after_reply")
  const { stopped } = sending as RunningCall
  if (stopped === "lost" && answer.kind === "lost") throw inProgress(call.intent)
  const { maybeApplied } = held
  const next = afterAnswer(effect, answer, { maybeApplied, isCancelled: stopped === "cancelled" })
  switch (next.kind) {
    case "record":
      return recordOutcome(deps, call.intent, held, next.outcome, isToolsWord(answer))
    case "release":
      return giveBack(deps, call.intent, held, next)
    case "probe": {
      const outcome = settledBy(effect, await ask(deps, call, held.attempt))
      if (outcome === undefined) {
        return giveBack(deps, call.intent, held, { ...next, maybeApplied: true })
      }
      return recordOutcome(deps, call.intent, held, outcome, outcome.kind !== "outcome_unknown")
    }
  }
}

async function sealCall(
  deps: ExecutorDeps,
  call: SealedCall,
  signal: AbortSignal,
): Promise<ExecutionRow> {
  const { intent } = call
  const { isAsked, row } = await deps.database.tenant(
    intent.workspaceId,
    (tx) => sealLocked(tx, intent),
    { signal, name: "seal execution" },
  )
  deps.runtime.reached("during_settle")
  return isAsked ? probe(deps, call, row) : row
}

/** Asks the provider what became of an unsafe call, and records what it says. */
async function probe(
  deps: ExecutorDeps,
  call: SealedCall,
  row: ExecutionRow,
): Promise<ExecutionRow> {
  const { intent } = call
  const outcome = settledBy("unsafe", await ask(deps, call, row.attempts)) ?? unknown
  if (outcome.kind === row.state) return row
  const held = { attempt: row.attempts, createdMs: row.createdMs }
  return (await recordOutcome(deps, intent, held, outcome, true)).row
}

async function ask(deps: ExecutorDeps, call: SealedCall, attempt: number) {
  const { probeTimeoutMs } = deps.config
  const options = actingAs(call.subject, { timeoutMs: probeTimeoutMs })
  const report = await askProvider(call.request, rulesOf(deps, attempt), options)
  deps.runtime.reached("during_settle")
  return report
}

const unwanted: Answer = {
  kind: "unsent",
  reason: "cancelled",
  message: "Nobody waited for the call any more when it could be sent.",
}
const unknown = { kind: "outcome_unknown" } as const

/** What the provider may take: recording, and asking about an unsafe call, need a rest of the time. */
function providerTimeoutMs(
  { probeTimeoutMs }: ExecutorConfig,
  { deadline, request }: Call,
): number {
  const leftMs = deadline - performance.now()
  const reserveMs = recordMs + (request.tool.effect === "unsafe" ? probeTimeoutMs : 0)
  return leftMs - Math.min(reserveMs, leftMs / 4)
}

function rulesOf({ config }: ExecutorDeps, attempt: number): AnswerRules {
  return { maxResultBytes: config.maxResultBytes, attempt }
}

function isToolsWord({ kind }: Answer): boolean {
  return kind === "result" || kind === "tool_error"
}
