/**
 * The moving part of the ledger: carries out what ledger.ts decides.
 *
 * Owns: the order of record, send, record; the lease of each row; the calls that are running.
 *
 * Invariants:
 * 1. The intent is committed before the call is sent, and no transaction is open while it is.
 * 2. Whoever waits for a provider stops before its lease ends, by the clock of the database.
 * 3. A caller that has gone stops a call that only reads; any other runs to its own deadline, so
 *    that its outcome is recorded.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { actingAs, type Subject } from "../../mesh/identity.ts"
import type { Runtime } from "../../mesh/service.ts"
import {
  claimSending,
  type ExecutionRow,
  type Intent,
  insertIntent,
  insertSeal,
  lockExecution,
  recordOutcome,
  releaseExecution,
  seeEpoch,
} from "./execution-store.ts"
import { admit, afterAnswer, type Outcome, sealed, settledBy } from "./ledger.ts"
import { type AnswerRules, askProvider, callProvider, type ProviderCall } from "./provider-call.ts"

export interface ExecutorConfig {
  /** How often one request may send a read or keyed call. */
  readonly maxAttempts: number
  readonly retryBaseMs: number
  /** How long a provider is given to tell the outcome of a call whose answer was lost. */
  readonly probeTimeoutMs: number
  /** How much longer than everything it covers a lease is. */
  readonly leaseMarginMs: number
}

export interface ExecutorDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly rules: AnswerRules
  readonly config: ExecutorConfig
}

/** An admitted call, checked against token and schema. */
export interface Call extends ProviderCall {
  readonly fullName: string
  readonly stepIndex: number
  readonly requestDigest: string
  readonly epoch: bigint
  /** For whom the provider is called. */
  readonly subject: Subject
  /** Until when the provider may take, all sendings together, by the monotonic clock. */
  readonly deadline: number
  readonly callerSignal: AbortSignal
}

export interface Executed {
  readonly row: ExecutionRow
  readonly isReplayed: boolean
}

/** A call that must not run unless it does already. */
export type Sealing = Omit<Intent, "leaseMs"> & { readonly epoch: bigint }

export interface Executor extends AsyncDisposable {
  execute(call: Call): Promise<Executed>
  /** Records that a call was never sent, unless the ledger knows it; the row as it is then. */
  seal(sealing: Sealing, signal: AbortSignal): Promise<ExecutionRow>
}

/** How long a stop waits for calls that are running. */
const drainMs = 15_000
const inProgressRetryMs = 200
const releasedRetryMs = 1_000
/** A sending that has less time than this would only be lost. */
const minSendingMs = 50
const recordAttempts = 4
const recordRetryMs = 100

export function createExecutor(deps: ExecutorDeps): Executor {
  const running = new Set<Promise<unknown>>()
  return {
    execute(call) {
      const work = execute(deps, call)
      const settled: Promise<unknown> = work.then(
        () => running.delete(settled),
        () => running.delete(settled),
      )
      running.add(settled)
      return work
    },
    async seal(sealing, signal) {
      const row = await deps.database.tenant(
        sealing.workspaceId,
        async (tx) => {
          const { workspaceId, runId, epoch } = sealing
          const runEpoch = await seeEpoch(tx, workspaceId, runId, epoch)
          if (epoch < runEpoch) throw new RunwardenError("LEASE_LOST", { run_id: runId })
          return (await insertSeal(tx, sealing, sealed)) ?? lockExecution(tx, sealing)
        },
        { signal, name: "seal execution" },
      )
      deps.runtime.reached("during_settle")
      return row
    },
    async [Symbol.asyncDispose]() {
      // What is cut off here is found out again by its effect class, as after a crash.
      const drained = new AbortController()
      const { signal } = drained
      const limit = sleep(drainMs, undefined, { signal }).catch(() => undefined)
      await Promise.race([Promise.all(running), limit])
      drained.abort()
    },
  }
}

async function execute(deps: ExecutorDeps, call: Call): Promise<Executed> {
  const { database } = deps
  const { workspaceId } = call
  const { next, row } = await database.tenant(
    workspaceId,
    (tx) => admission(tx, call, leaseMs(deps, call)),
    { signal: call.callerSignal, name: "admit execution" },
  )
  if (next === "replay") return { row, isReplayed: true }
  if (next === "probe") {
    const settled = await probe(deps, call, row)
    return { row: settled, isReplayed: settled.state === row.state }
  }
  return { row: await send(deps, call, row, next === "repeat"), isReplayed: false }
}

type NextStep = "send" | "repeat" | "probe" | "replay"

/** Decides under the lock of the row, and records what follows before anything is sent (1). */
async function admission(
  tx: Parameters<Parameters<Database["tenant"]>[1]>[0],
  call: Call,
  lease: number,
): Promise<{ readonly next: NextStep; readonly row: ExecutionRow }> {
  const key = keyOf(call)
  const runEpoch = await seeEpoch(tx, call.workspaceId, call.runId, call.epoch)
  const inserted = call.epoch < runEpoch ? undefined : await insertIntent(tx, intentOf(call, lease))
  if (inserted !== undefined) return { next: "send", row: inserted }
  if (call.epoch < runEpoch) throw new RunwardenError("LEASE_LOST", { run_id: call.runId })
  const row = await lockExecution(tx, key)
  const entry = {
    requestDigest: row.request_digest,
    effect: row.effect,
    state: row.state,
    isLeased: row.is_leased,
  }
  const { kind } = admit(entry, call, runEpoch)
  switch (kind) {
    case "replay":
    case "probe":
      return { next: kind, row }
    case "repeat": {
      const claimed = await claimSending(tx, key, row.attempts, lease)
      if (claimed === undefined) throw inProgress(call)
      return { next: "repeat", row: claimed }
    }
    case "abandon": {
      const unknown = { kind: "outcome_unknown" } as const
      return { next: "probe", row: await recordOutcome(tx, key, unknown, row.attempts) }
    }
    case "conflict":
      throw new RunwardenError("IDEMPOTENCY_CONFLICT", { tool: call.fullName })
    case "lease_lost":
      throw new RunwardenError("LEASE_LOST", { run_id: call.runId })
    case "in_progress":
    case "send":
      throw inProgress(call)
  }
}

/** Sends until there is something to record, or until the caller has to come back. */
async function send(
  deps: ExecutorDeps,
  call: Call,
  admitted: ExecutionRow,
  isRepeat: boolean,
): Promise<ExecutionRow> {
  const { config, database, runtime } = deps
  const { effect } = admitted
  const { deadline } = call
  let row = admitted
  let maybeApplied = isRepeat
  for (let sending = 1; ; sending++) {
    const signal = effect === "read" ? call.callerSignal : undefined // (3)
    runtime.reached("after_send")
    const answer = await callProvider(
      call,
      deps.rules,
      actingAs(call.subject, {
        timeoutMs: Math.max(1, deadline - performance.now()), // (2)
        ...(signal === undefined ? {} : { signal }),
      }),
    )
    runtime.reached("after_reply")
    const pauseMs = config.retryBaseMs * 2 ** (sending - 1) * Math.random()
    const hasTime =
      performance.now() + pauseMs + minSendingMs < deadline && signal?.aborted !== true
    const canRepeat = sending < config.maxAttempts && hasTime
    const next = afterAnswer(effect, answer, { canRepeat, maybeApplied })
    maybeApplied ||= answer.kind === "lost"
    switch (next.kind) {
      case "record":
        return record(deps, call, next.outcome, isToolsWord(answer.kind) ? undefined : row.attempts)
      case "probe":
        return probe(deps, call, row)
      case "release":
        await release(deps, call, row)
        throw unavailable(call)
      case "repeat": {
        await sleep(pauseMs)
        const lease = leaseMs(deps, call)
        const claimed = await database.tenant(
          call.workspaceId,
          (tx) => claimSending(tx, keyOf(call), row.attempts, lease),
          { name: "claim sending" },
        )
        if (claimed === undefined) throw inProgress(call)
        row = claimed
      }
    }
  }
}

/** Asks the provider what became of an unsafe call, and records what it says. */
async function probe(deps: ExecutorDeps, call: Call, row: ExecutionRow): Promise<ExecutionRow> {
  const report = await askProvider(
    call,
    deps.rules,
    actingAs(call.subject, { timeoutMs: deps.config.probeTimeoutMs }),
  )
  deps.runtime.reached("during_settle")
  const outcome = settledBy(report)
  if (outcome.kind === row.state) return row
  return record(deps, call, outcome, outcome.kind === "outcome_unknown" ? row.attempts : undefined)
}

/**
 * Records an outcome although the caller may be gone, and tries again for a while: what is not
 * recorded has to be found out again by its effect class, and for an unsafe call perhaps by a person.
 */
async function record(
  { database, runtime }: ExecutorDeps,
  call: Call,
  outcome: Outcome,
  attempt: number | undefined,
): Promise<ExecutionRow> {
  for (let tried = 1; ; tried++) {
    try {
      const row = await database.tenant(
        call.workspaceId,
        (tx) => recordOutcome(tx, keyOf(call), outcome, attempt),
        { name: "record outcome" },
      )
      runtime.reached("after_outcome")
      return row
    } catch (error) {
      if (tried >= recordAttempts) {
        runtime.log.error(
          { err: error, tool: call.fullName, outcome: outcome.kind, workspace: call.workspaceId },
          "outcome not recorded",
        )
        throw error
      }
      await sleep(recordRetryMs * tried * (0.5 + Math.random()))
    }
  }
}

/** A lease that cannot be given back ends by itself. */
async function release({ database, runtime }: ExecutorDeps, call: Call, row: ExecutionRow) {
  try {
    await database.tenant(
      call.workspaceId,
      (tx) => releaseExecution(tx, keyOf(call), row.attempts),
      { name: "release execution" },
    )
  } catch (error) {
    runtime.log.warn({ err: error, tool: call.fullName }, "execution not released")
  }
}

function isToolsWord(kind: string): boolean {
  return kind === "result" || kind === "tool_error"
}

function intentOf(call: Call, lease: number): Intent {
  return {
    ...keyOf(call),
    runId: call.runId,
    stepIndex: call.stepIndex,
    requestDigest: call.requestDigest,
    definitionDigest: call.tool.digest,
    effect: call.tool.effect,
    leaseMs: lease,
  }
}

function keyOf({ workspaceId, fullName, idempotencyKey }: Call) {
  return { workspaceId, tool: fullName, idempotencyKey }
}

function leaseMs({ config }: ExecutorDeps, { deadline }: Call): number {
  return Math.max(0, deadline - performance.now()) + config.probeTimeoutMs + config.leaseMarginMs
}

function inProgress(call: Call): RunwardenError {
  return new RunwardenError(
    "IDEMPOTENCY_IN_PROGRESS",
    { tool: call.fullName },
    { retryAfterMs: inProgressRetryMs },
  )
}

function unavailable(call: Call): RunwardenError {
  return new RunwardenError(
    "DEPENDENCY_UNAVAILABLE",
    { dependency: call.tool.provider },
    { retryAfterMs: releasedRetryMs },
  )
}
