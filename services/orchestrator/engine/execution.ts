/**
 * Sending an admitted call to the tools service until it is known what became of it.
 *
 * 1. The key never changes between attempts, so the ledger behind it decides what runs: asking again
 *    is always safe, guessing never is. This is the one place that repeats a call: by the policy of
 *    the tool's version, and within the retry budget of its provider.
 * 2. A call that will not be sent again is sealed, so that no request which is still on its way can
 *    run it, and ends as the ledger then says. Where the ledger cannot be asked, only an UNSAFE call
 *    is unknown: whatever else may have run has a key, or changed nothing.
 * 3. Once the lease is lost nothing is answered at all: the next owner asks the ledger itself.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import { RetryInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts"
import {
  AttemptFault,
  type Execution,
  ExecutionState,
  type FailedAttempt,
} from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import type { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { type Reason, reasonOf } from "../../../mesh/errors.ts"
import { actingAs } from "../../../mesh/identity.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { CallUsage } from "../budget/budget.ts"
import type { ExecutorConfig } from "../config.ts"
import { pause, retryDelay } from "../pause.ts"
import type { Clock, RunRecord, ToolCallRecord, ToolFailure } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"
import { waitBeforeRepeat } from "./call-retry.ts"
import { type CallTime, callTime } from "./call-time.ts"
import { type Lease, LeaseLost } from "./lease.ts"
import type { RetryBudgets } from "./retry-budget.ts"
import { subjectOf } from "./step.ts"

export type Outcome = OutcomeKind & {
  /** What the call used up; absent where nobody said. */
  readonly usage?: CallUsage
}

type OutcomeKind =
  | {
      readonly kind: "succeeded"
      readonly result: JsonObject
      /** The result as JSON, made once. */
      readonly text: string
    }
  | { readonly kind: "failed"; readonly reason: string; readonly error: ToolFailure }
  | { readonly kind: "unknown" }

export interface ExecutionDeps {
  readonly tools: Client<typeof ExecutionService>
  readonly config: ExecutorConfig
  readonly retries: RetryBudgets
  readonly reached: Runtime["reached"]
}

/** The tools service among the peers that have a retry budget: no provider has a space in its name. */
const toolsService = "tools service"

/** Why a call and its run fail whose result is larger than is taken. */
export const resultTooLarge = "result_too_large"

/** What the ledger is sure about without having sent anything. */
const refusals: ReadonlySet<Reason | undefined> = new Set<Reason>([
  "UNKNOWN_TOOL",
  "AMBIGUOUS_TOOL",
  "TOOL_ARGUMENTS_INVALID",
  "DIGEST_MISMATCH",
  "IDEMPOTENCY_CONFLICT",
  "INVALID_REQUEST",
  "MALFORMED_REQUEST",
  "REQUEST_TOO_LARGE",
  "NOT_FOUND",
  "CALLER_NOT_ALLOWED",
  "WORKSPACE_MISMATCH",
])

/** Executes a call. Throws where the lease is lost. */
export async function executeCall(
  deps: ExecutionDeps,
  run: RunRecord,
  call: ToolCallRecord,
  lease: Pick<Lease, "lost" | "stopped">,
  clock: Clock,
): Promise<Outcome> {
  const { retries } = deps
  const { lost } = lease
  using time = callTime(lease.stopped, call, clock)
  const { scope: stopped } = time
  const provider = providerOf(call)
  const patience: Patience = { away: 0, heldBack: 0 }
  // Whether an earlier request under this key may have got through.
  let maybeSent = call.attempts > 1
  for (; ; maybeSent = true) {
    lost.throwIfEnded()
    if (stopped.isEnded) {
      return settleCall(deps, run, call, time.isOver() ? "deadline_exceeded" : "cancelled", lost)
    }
    const answer = await attempt(deps, run, call, time)
    lost.throwIfEnded()
    if (answer.kind !== "away") retries.succeeded(toolsService)
    if (answer.kind === "ended") {
      if (answer.outcome.kind !== "unknown") retries.succeeded(provider)
      return answer.outcome
    }
    if (stopped.isEnded) continue
    if (answer.kind === "refused" && !maybeSent) return failed(answer.reason)
    const mayRepeat = await waitToRepeat(deps, call, answer, patience, stopped.signal)
    if (!mayRepeat) return settleCall(deps, run, call, "tool_unavailable", lost)
  }
}

/** What is kept of a call's time on the way is added to it: the provider hears of about as much as there is. */
const graceMs = 1_000

/** What one request came to. */
type Answer =
  | { readonly kind: "ended"; readonly outcome: Outcome }
  | { readonly kind: "refused"; readonly reason: string }
  /** The call is being sent by an earlier request. */
  | { readonly kind: "in_flight"; readonly waitMs: number }
  /** The provider did not answer, or not as it should. */
  | { readonly kind: "failed"; readonly failed: FailedAttempt; readonly attempts: number }
  /** The tools service did not. */
  | { readonly kind: "away" }

/** Asks the tools service once. Throws only where the lease is lost. */
async function attempt(
  { tools, config, reached }: ExecutionDeps,
  run: RunRecord,
  call: ToolCallRecord,
  time: CallTime,
): Promise<Answer> {
  const { workspaceId, runId } = run
  const { stepIndex, idempotencyKey, tool, definitionDigest } = call
  const { arguments: args, argumentsDigest: digest } = call
  if (args === undefined || digest === undefined) throw new Error("an admitted call has arguments")
  const request = {
    ...{ workspaceId, runId, stepIndex, idempotencyKey, tool, definitionDigest },
    arguments: args,
    argumentsDigest: digest,
    epoch: BigInt(run.epoch),
  }
  const options = {
    signal: time.scope.signal,
    timeoutMs: Math.min(config.executeTimeoutMs, time.leftMs() + graceMs),
    call: { runId, stepIndex, digest },
  }
  try {
    const { execution, failedAttempt } = await tools.execute(
      request,
      actingAs(subjectOf(run), options),
    )
    reached("after_outcome")
    const outcome = outcomeOf(execution)
    if (outcome !== undefined) return { kind: "ended", outcome }
    if (failedAttempt === undefined) return { kind: "in_flight", waitMs: config.retryMs }
    return { kind: "failed", failed: failedAttempt, attempts: execution?.attempts ?? 0 }
  } catch (error) {
    const reason = reasonOf(error)
    if (reason === "LEASE_LOST") throw new LeaseLost(runId)
    if (refusals.has(reason)) return { kind: "refused", reason: String(reason).toLowerCase() }
    if (reason !== "IDEMPOTENCY_IN_PROGRESS") return { kind: "away" }
    return { kind: "in_flight", waitMs: retryInfoOf(error) ?? config.retryMs }
  }
}

/** How much a call has waited for. A repeat that the budget held back counts like one that failed. */
interface Patience {
  away: number
  heldBack: number
}

/** Waits until the call may be sent again; false where it will not be. */
async function waitToRepeat(
  { config, retries }: ExecutionDeps,
  call: ToolCallRecord,
  answer: Exclude<Answer, { readonly kind: "ended" }>,
  patience: Patience,
  signal: AbortSignal,
): Promise<boolean> {
  if (answer.kind === "refused") return false
  if (answer.kind === "in_flight") {
    await pause(answer.waitMs, signal)
    return true
  }
  const peer = answer.kind === "away" ? toolsService : providerOf(call)
  const isFault = answer.kind === "away" || answer.failed.fault !== AttemptFault.TOOL_ERROR
  if (isFault) retries.failed(peer)
  for (; ; patience.heldBack++) {
    const waitMs =
      answer.kind === "away"
        ? waitForTools(config, ++patience.away)
        : waitBeforeRepeat(answer.failed, call.effect, answer.attempts + patience.heldBack)
    if (waitMs === undefined) return false
    await pause(waitMs, signal)
    if (signal.aborted || !isFault || retries.mayRetry(peer)) return true
  }
}

function waitForTools({ maxRetries, retryMs }: ExecutorConfig, away: number): number | undefined {
  return away > maxRetries ? undefined : retryDelay(retryMs, away)
}

/** Finds out what became of a call that will not be sent again. Throws where the lease is lost. */
export async function settleCall(
  { tools, config, reached }: ExecutionDeps,
  run: RunRecord,
  call: ToolCallRecord,
  reason: string,
  lost: Scope,
): Promise<Outcome> {
  const { workspaceId, runId } = run
  const { idempotencyKey, tool, definitionDigest, stepIndex, argumentsDigest = "" } = call
  const end = performance.now() + config.settleMs
  const key = { workspaceId, runId, tool, idempotencyKey, epoch: BigInt(run.epoch) }
  const sealing = { ...key, stepIndex, definitionDigest, argumentsDigest }
  for (let isTold = false; ; ) {
    try {
      const options = actingAs(subjectOf(run), { signal: lost.signal, timeoutMs: config.settleMs })
      const { execution, sealed } = await tools.sealExecution(sealing, options)
      reached("during_settle")
      const outcome = sealed ? sealedOutcome(execution, reason) : outcomeOf(execution)
      if (outcome !== undefined) return outcome
      if (!isTold) await tools.cancelExecution(key, options)
      isTold = true
    } catch (error) {
      lost.throwIfEnded()
      switch (reasonOf(error)) {
        case "LEASE_LOST":
          throw new LeaseLost(runId)
        case "UNKNOWN_TOOL":
          // No request for a tool that was never there is taken, whenever it comes.
          return failed(reason)
      }
    }
    if (performance.now() >= end) return unanswered(call, reason)
    await pause(Math.min(100, config.retryMs), lost.signal)
    lost.throwIfEnded()
  }
}

/** A call that was given up, and whether it may have taken effect before. */
function sealedOutcome(execution: Execution | undefined, reason: string): Outcome {
  if (execution?.outcome.case !== "error") return failed(reason)
  const { message, metadata } = execution.outcome.value
  return { kind: "failed", reason, error: { reason, message, metadata } }
}

/** What is said of a call where the ledger did not answer. */
function unanswered({ effect }: ToolCallRecord, reason: string): Outcome {
  if (effect === "unsafe") return { kind: "unknown" }
  const applied = effect === "keyed" ? "unknown" : "false"
  return { kind: "failed", reason, error: { reason, message: "", metadata: { applied } } }
}

/** What the ledger's row says; undefined while the call is in flight. */
export function outcomeOf(execution: Execution | undefined): Outcome | undefined {
  const outcome = endOf(execution)
  const usage = execution?.usage
  if (outcome === undefined || usage === undefined) return outcome
  const { inputTokens, outputTokens, costMicros } = usage
  return {
    ...outcome,
    usage: {
      inputTokens: Number(inputTokens),
      outputTokens: Number(outputTokens),
      costMicros: Number(costMicros),
    },
  }
}

function endOf(execution: Execution | undefined): OutcomeKind | undefined {
  switch (execution?.state) {
    case ExecutionState.SUCCEEDED:
      return execution.outcome.case === "result"
        ? succeeded(execution.outcome.value)
        : { kind: "unknown" }
    case ExecutionState.FAILED: {
      if (execution.outcome.case !== "error") return failed("tool_unavailable")
      const { reason, message, metadata } = execution.outcome.value
      // A limit ends the run; that it was one is the ledger's word, as `applied` is.
      const isLimit = reason === resultTooLarge && metadata.applied !== undefined
      const error = { reason, message, metadata }
      return { kind: "failed", reason: isLimit ? resultTooLarge : "tool_failed", error }
    }
    case ExecutionState.OUTCOME_UNKNOWN:
      return { kind: "unknown" }
    default:
      return undefined
  }
}

function succeeded(result: JsonObject): OutcomeKind {
  return { kind: "succeeded", result, text: JSON.stringify(result) }
}

function providerOf({ tool }: ToolCallRecord): string {
  return tool.slice(0, Math.max(0, tool.indexOf("/")))
}

function failed(reason: string): OutcomeKind {
  return { kind: "failed", reason, error: { reason, message: "", metadata: {} } }
}

function retryInfoOf(error: unknown): number | undefined {
  const details = error as { findDetails?: (schema: typeof RetryInfoSchema) => unknown[] }
  const [info] = (details.findDetails?.(RetryInfoSchema) ?? []) as {
    readonly retryDelay?: { readonly seconds: bigint; readonly nanos: number }
  }[]
  if (info?.retryDelay === undefined) return undefined
  const { seconds, nanos } = info.retryDelay
  return Math.min(5_000, Math.max(10, Number(seconds) * 1000 + nanos / 1e6))
}
