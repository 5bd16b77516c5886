/**
 * Asking again about a call whose outcome is unknown, while its run waits for a person: a provider that
 * was away when it was asked may be back, and know.
 *
 * Only the provider's own word counts: a ledger that knows nothing of the call says nothing about it.
 */
import type { Client } from "@connectrpc/connect"
import type { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { settleUsage } from "../budget/run-budget.ts"
import type { Change } from "../change/change.ts"
import type { ExecutorConfig } from "../config.ts"
import type { RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"
import { type Outcome, outcomeOf } from "./execution.ts"
import { LeaseLost } from "./lease.ts"
import { subjectOf } from "./step.ts"

export interface AskingDeps {
  readonly tools: Client<typeof ExecutionService>
  readonly config: ExecutorConfig
}

/** What became of a call after all. */
type Found = Exclude<Outcome, { readonly kind: "unknown" }>

/** Undefined where nobody knows yet. Throws where the lease is lost. */
export async function askOutcome(
  { tools, config }: AskingDeps,
  run: RunRecord,
  call: ToolCallRecord,
  lost: Scope,
): Promise<Found | undefined> {
  const { workspaceId, runId, epoch } = run
  const { idempotencyKey, tool, definitionDigest, stepIndex, argumentsDigest = "" } = call
  const key = { workspaceId, runId, tool, idempotencyKey, epoch: BigInt(epoch) }
  const options = actingAs(subjectOf(run), { signal: lost.signal, timeoutMs: config.settleMs })
  try {
    const { execution, sealed } = await tools.sealExecution(
      { ...key, stepIndex, definitionDigest, argumentsDigest },
      options,
    )
    const outcome = sealed ? undefined : outcomeOf(execution)
    return outcome?.kind === "unknown" ? undefined : outcome
  } catch (error) {
    lost.throwIfEnded()
    if (reasonOf(error) === "LEASE_LOST") throw new LeaseLost(runId)
    return undefined
  }
}

/** Records what the provider has told after all. */
export function settleFound(change: Change, stepIndex: number, outcome: Found): void {
  const { usage } = outcome
  settleUsage(change, usage)
  if (outcome.kind === "succeeded") {
    change.moveCall(stepIndex, "settle_succeeded", { result: outcome.result }, 0, usage)
    change.countResult(outcome.text)
  } else {
    const { error, reason } = outcome
    change.moveCall(stepIndex, "settle_failed", { error, reason }, 0, usage)
  }
}
