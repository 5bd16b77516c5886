/**
 * Sending an admitted call to the tools service until it is known what became of it.
 *
 * 1. The key never changes between attempts, so the ledger behind it decides what runs: sending
 *    again is always safe, guessing never is.
 * 2. A call that may have been sent ends as the ledger says. Where the ledger cannot be asked, only
 *    a call that merely reads is taken for not done. That the ledger does not know a call proves
 *    nothing while a request may be on its way: the key is sealed first, so that it never runs.
 * 3. Once the lease is lost nothing is answered at all: the next owner asks the ledger itself.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import { RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts"
import { type Execution, ExecutionState } from "../../gen/runwarden/tools/v1/execution_pb.ts"
import type { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { type Reason, reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import type { Runtime } from "../../mesh/service.ts"
import type { ExecutorConfig } from "./config.ts"
import { LeaseLost } from "./lease.ts"
import { pause, retryDelay } from "./pause.ts"
import type { RunRecord, ToolCallRecord, ToolFailure } from "./snapshot.ts"

export type Outcome =
  | { readonly kind: "succeeded"; readonly result: JsonObject }
  | { readonly kind: "failed"; readonly reason: string; readonly error: ToolFailure }
  | { readonly kind: "unknown" }

export interface ExecutionDeps {
  readonly tools: Client<typeof ExecutionService>
  readonly config: ExecutorConfig
  readonly reached: Runtime["reached"]
}

export interface ExecutionSignals {
  /** Nothing more may be sent. */
  readonly lost: AbortSignal
  /** The call is no longer wanted. */
  readonly cancelled: AbortSignal
}

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
  signals: ExecutionSignals,
): Promise<Outcome> {
  const { tools, config, reached } = deps
  const { lost, cancelled } = signals
  const { arguments: args, argumentsDigest: digest } = call
  if (args === undefined || digest === undefined) throw new Error("an admitted call has arguments")
  const subject = memberSubject(run.workspaceId, run.requesterId, run.requesterRole as never)
  const signal = AbortSignal.any([lost, cancelled])
  const request = {
    workspaceId: run.workspaceId,
    runId: run.runId,
    stepIndex: call.stepIndex,
    idempotencyKey: call.idempotencyKey,
    tool: call.tool,
    definitionDigest: call.definitionDigest,
    arguments: args,
    argumentsDigest: digest,
    epoch: BigInt(run.epoch),
  }
  const claims = { runId: run.runId, stepIndex: call.stepIndex, digest }
  // Whether an earlier request under this key may have got through.
  let maybeSent = call.attempts > 1
  for (let failures = 0; ; maybeSent = true) {
    lost.throwIfAborted()
    if (cancelled.aborted) {
      return settleCall(deps, run, call, "cancelled", lost)
    }
    let waitMs = config.retryMs
    try {
      const options = actingAs(subject, {
        signal,
        timeoutMs: config.executeTimeoutMs,
        call: claims,
      })
      const { execution } = await tools.execute(request, options)
      reached("after_outcome")
      const outcome = outcomeOf(execution)
      if (outcome !== undefined) return outcome
    } catch (error) {
      lost.throwIfAborted()
      const reason = reasonOf(error)
      if (reason === "LEASE_LOST") throw new LeaseLost(run.runId)
      if (cancelled.aborted) continue
      if (refusals.has(reason)) {
        return maybeSent
          ? settleCall(deps, run, call, "tool_unavailable", lost)
          : failed(String(reason).toLowerCase())
      }
      if (reason === "IDEMPOTENCY_IN_PROGRESS") {
        waitMs = retryInfoOf(error) ?? waitMs
      } else {
        failures += 1
        if (failures > config.maxRetries) {
          return settleCall(deps, run, call, "tool_unavailable", lost)
        }
        waitMs = retryDelay(config.retryMs, failures)
      }
    }
    await pause(waitMs, signal)
  }
}

/** Finds out what became of a call that will not be sent again. Throws where the lease is lost. */
export async function settleCall(
  { tools, config, reached }: ExecutionDeps,
  run: RunRecord,
  call: ToolCallRecord,
  reason: string,
  lost: AbortSignal,
): Promise<Outcome> {
  const { workspaceId, runId } = run
  const { idempotencyKey, tool, definitionDigest, stepIndex, argumentsDigest = "" } = call
  const subject = memberSubject(workspaceId, run.requesterId, run.requesterRole as never)
  const end = performance.now() + config.settleMs
  const key = { workspaceId, tool, idempotencyKey }
  const epoch = BigInt(run.epoch)
  const seal = { ...key, runId, stepIndex, definitionDigest, argumentsDigest, epoch }
  let isKnown = false
  for (;;) {
    try {
      const options = actingAs(subject, { signal: lost, timeoutMs: config.settleMs })
      const { execution, sealed } = isKnown
        ? { ...(await tools.getExecution(key, options)), sealed: false }
        : await tools.sealExecution(seal, options)
      reached("during_settle")
      isKnown = true
      if (sealed) return failed(reason)
      const outcome = outcomeOf(execution)
      if (outcome !== undefined) return outcome
    } catch (error) {
      lost.throwIfAborted()
      switch (reasonOf(error)) {
        case "LEASE_LOST":
          throw new LeaseLost(runId)
        case "UNKNOWN_TOOL":
          // No request for a tool that was never there is taken, whenever it comes.
          return failed(reason)
      }
    }
    if (performance.now() >= end) {
      return call.effect === "read" ? failed(reason) : { kind: "unknown" }
    }
    await pause(Math.min(100, config.retryMs), lost)
    lost.throwIfAborted()
  }
}

/** What the ledger's row says; undefined while the call is in flight. */
function outcomeOf(execution: Execution | undefined): Outcome | undefined {
  switch (execution?.state) {
    case ExecutionState.SUCCEEDED:
      return execution.outcome.case === "result"
        ? { kind: "succeeded", result: execution.outcome.value }
        : { kind: "unknown" }
    case ExecutionState.FAILED: {
      if (execution.outcome.case !== "error") return failed("tool_unavailable")
      const { reason, message, metadata } = execution.outcome.value
      return { kind: "failed", reason: "tool_failed", error: { reason, message, metadata } }
    }
    case ExecutionState.OUTCOME_UNKNOWN:
      return { kind: "unknown" }
    default:
      return undefined
  }
}

function failed(reason: string): Outcome {
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
