/** The end of a call: what came back, what moderation says of it, and of what comes next. */
import type { Tracer } from "@opentelemetry/api"
import { runExhaustion } from "../budget/run-budget.ts"
import type { Snapshot, ToolCallRecord } from "../run/snapshot.ts"
import type { Outcome } from "./execution.ts"
import type { Judgement } from "./judgement.ts"
import type { Lease } from "./lease.ts"
import { type Conclusion, endedBy, mayContinue } from "./outcome.ts"
import { inCallSpan } from "./span.ts"
import { judgeAhead, judgeResult, type StepDeps } from "./step.ts"

interface CallEndDeps extends StepDeps {
  readonly tracer: Tracer
}

/** What a call's driver knows of its run. */
export interface CallSetting {
  readonly lease: Lease
  /** The run as it is by now. */
  snapshot(): Snapshot
  /** Whether the next step may be prepared on top of a change that is not stored yet. */
  mayGoOn(): boolean
}

export interface CallEnd {
  readonly conclusion: Conclusion
  /** What moderation says of the next arguments; undefined where it was not asked. */
  readonly ahead: Judgement | undefined
}

/** Carries a call out, in its span, and has judged what would be passed on. */
export async function endCall(
  deps: CallEndDeps,
  setting: CallSetting,
  call: ToolCallRecord,
  work: () => Promise<Outcome>,
): Promise<CallEnd> {
  const ended = await inCallSpan(deps.tracer, setting.snapshot().run, call, work)
  const record = endedBy(call, ended.outcome)
  const [judgement, ahead] = await Promise.all([
    judgeOutcome(deps, setting, record),
    judgeNext(deps, setting, record, ended.outcome),
  ])
  return { conclusion: { ...ended, judgement }, ahead }
}

/** Judges what would be passed on: a result, or an error that the plan goes on with. */
export async function judgeOutcome(
  deps: StepDeps,
  { lease, snapshot }: Pick<CallSetting, "lease" | "snapshot">,
  call: ToolCallRecord,
): Promise<Judgement | undefined> {
  if (call.result !== undefined) {
    return judgeResult(deps, snapshot(), call, call.result, lease.lost)
  }
  if (call.error === undefined || !mayContinue(call)) return undefined
  const { reason, message, metadata } = call.error
  const content = { error: { reason, message, metadata: { ...metadata } } }
  return judgeResult(deps, snapshot(), call, content, lease.lost)
}

/** What moderation says of the next arguments, where they are known and will be needed. */
async function judgeNext(
  deps: StepDeps,
  setting: CallSetting,
  call: ToolCallRecord,
  outcome: Outcome,
): Promise<Judgement | undefined> {
  const snapshot = setting.snapshot()
  const leadsOn = outcome.kind === "succeeded" || (outcome.kind === "failed" && mayContinue(call))
  if (!leadsOn || snapshot.run.state !== "running" || !setting.mayGoOn()) return undefined
  const place = { run: snapshot.run, before: snapshot }
  if (runExhaustion(place, call.stepIndex + 1, deps.limits) !== undefined) return undefined
  const { stopped } = setting.lease
  return judgeAhead(deps, snapshot, call.stepIndex + 1, stopped)?.catch(() => undefined)
}
