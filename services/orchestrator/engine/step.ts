/**
 * From a planned step to what may be done about it: resolve, check, judge, act. The result is a
 * change that is ready to be stored; nothing has been executed.
 *
 * 1. What is judged, shown, digested and executed are the same bytes.
 * 2. An approval admits its call only where moderation, asked again, still says the same by the same
 *    policy, the rules in force are those it was given under, and everybody behind it still stands
 *    for it; anything else supersedes it.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import type { ModerationService } from "../../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import type { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject, type Subject } from "../../../mesh/identity.ts"
import { actionFor } from "../action.ts"
import { type Asked, answersTo, newQuestion, type Rules } from "../approval/question.ts"
import type { RuleBooks } from "../approval/rule-books.ts"
import { admitCall, exhaust, runExhaustion } from "../budget/run-budget.ts"
import type { RunLimits } from "../budget/run-limits.ts"
import type { Change } from "../change/change.ts"
import type { ExecutorConfig, OrchestratorConfig } from "../config.ts"
import { pause, retryDelay } from "../pause.ts"
import type { ApprovalRecord, RunRecord, Snapshot, ToolCallRecord } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"
import { resolveArguments } from "../start/plan.ts"
import { denialOf, type Judgement, judge, type Question } from "./judgement.ts"

export interface StepDeps {
  readonly moderation: Client<typeof ModerationService>
  readonly tools: Client<typeof ExecutionService>
  readonly config: ExecutorConfig
  readonly limits: RunLimits
  readonly approval: OrchestratorConfig["approval"]
  readonly rules: RuleBooks
}

/** Where a question comes up: in a run as it will be, with the calls that it has. */
type Place = Pick<Change, "run" | "before">

/** Prepares the current step of a run whose input, if there is any, is judged first. */
export async function prepareStep(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  scope: Scope,
  known?: Judgement,
): Promise<void> {
  if (await prepareInput(deps, change, scope)) {
    await prepareCall(deps, change, stepIndex, scope, known)
  }
}

/** Judges the run's input, once and before anything else; true where the run may go on. */
async function prepareInput(deps: StepDeps, change: Change, scope: Scope): Promise<boolean> {
  const { run } = change
  if (run.input === "" || run.moderationOutcome !== undefined) return true
  const question = { subject: "run_input", content: { input: run.input } } as const
  const judgement = await ask(deps, change, question, scope)
  change.judge(judgement)
  if (judgement.verdict !== "blocked") return true
  change.moveRun({ kind: "fail", reason: "policy_denied" }, denialOf(judgement))
  return false
}

/**
 * Asks about the arguments of a call that does not depend on the one before it, while that one's
 * result is judged; undefined where they depend on it. What has been called by then is known.
 */
export function judgeAhead(
  deps: StepDeps,
  snapshot: Snapshot,
  stepIndex: number,
  scope: Scope,
): Promise<Judgement> | undefined {
  const call = snapshot.calls[stepIndex]
  if (call === undefined || !call.isLiteral) return undefined
  const place = { run: snapshot.run, before: snapshot }
  return judgeArguments(deps, place, call, call.plannedArguments, scope)
}

/**
 * Prepares a proposed call: leaves it executing, waiting for an approval, or denied. `known` is what
 * moderation has said already about its arguments.
 */
async function prepareCall(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  scope: Scope,
  known?: Judgement,
): Promise<void> {
  const call = change.call(stepIndex)
  const exhaustion = runExhaustion(change, stepIndex, deps.limits)
  if (exhaustion !== undefined) return exhaust(change, exhaustion)
  change.moveCall(stepIndex, "moderate")
  let args = call.plannedArguments
  if (!call.isLiteral) {
    const { maxArgumentBytes } = deps.limits
    const resolution = resolveArguments(args, resultsBefore(change, stepIndex), maxArgumentBytes)
    if (resolution.kind === "unresolved") return refuse(change, stepIndex, "arguments_invalid")
    if (resolution.kind === "too_large") {
      const size = { bytes: String(resolution.bytes), limit: String(maxArgumentBytes) }
      return refuse(change, stepIndex, "arguments_too_large", size)
    }
    args = resolution.arguments
    change.countArguments(resolution.bytes)
    const fault = await validate(deps, change.run, call, args, scope)
    if (fault !== undefined) return refuse(change, stepIndex, fault)
    change.setCall(stepIndex, { provenance: resolution.provenance })
  }
  const judged = change.call(stepIndex)
  const judgement = known ?? (await judgeArguments(deps, change, judged, args, scope))
  await act(deps, change, stepIndex, { args, judgement }, scope)
}

/**
 * Prepares a call that was approved: leaves it executing, or moderated anew. `isBacked`: everybody
 * behind the approval still stands for it.
 */
export async function prepareApproved(
  deps: StepDeps,
  change: Change,
  approval: ApprovalRecord,
  isBacked: boolean,
  scope: Scope,
): Promise<void> {
  const call = change.call(approval.stepIndex)
  const { stepIndex, arguments: args } = call
  if (args === undefined) throw new Error("an approved call has its arguments")
  const exhaustion = runExhaustion(change, stepIndex, deps.limits)
  if (exhaustion !== undefined) return exhaust(change, exhaustion)
  const [judgement, { book }] = await Promise.all([
    judgeArguments(deps, change, call, args, scope),
    deps.rules.current(change.run.workspaceId, scope.signal),
  ])
  const asked = { run: change.run, call, arguments: args, judgement }
  const rules = { book, defaultRule: deps.approval }
  if (isBacked && judgement.verdict !== "blocked" && answersTo(approval, asked, rules)) {
    change.judge(judgement, stepIndex)
    change.setCall(stepIndex, verdictMembers(judgement))
    change.consume(approval, approval.digest)
    admitCall(change, stepIndex)
    return
  }
  change.moveCall(stepIndex, "supersede")
  await act(deps, change, stepIndex, { args, judgement }, scope)
}

/** Judges the result or error of a call that is about to be passed on. */
export function judgeResult(
  deps: StepDeps,
  snapshot: Snapshot,
  call: ToolCallRecord,
  content: JsonObject,
  scope: Scope,
): Promise<Judgement> {
  const question = { subject: "tool_result", content, call } as const
  return ask(deps, { run: snapshot.run, before: snapshot }, question, scope)
}

/** The requester, as whom everything of the run is done. */
export function subjectOf(run: RunRecord): Subject {
  return memberSubject(run.workspaceId, run.requesterId, run.requesterRole as never)
}

function judgeArguments(
  deps: StepDeps,
  place: Place,
  call: ToolCallRecord,
  content: JsonObject,
  scope: Scope,
): Promise<Judgement> {
  const digest = call.isLiteral ? call.plannedDigest : undefined
  const question = { subject: "tool_arguments", content, digest, call } as const
  return ask(deps, place, question, scope)
}

/** Turns a verdict on a moderating call into the next state. */
async function act(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  { args, judgement }: { readonly args: JsonObject; readonly judgement: Judgement },
  scope: Scope,
): Promise<void> {
  change.judge(judgement, stepIndex)
  change.setCall(stepIndex, { arguments: args, ...verdictMembers(judgement) })
  const call = change.call(stepIndex)
  const { riskClass, effect } = call
  switch (actionFor({ verdict: judgement.verdict, riskClass, effect })) {
    case "execute":
      change.moveCall(stepIndex, "permit")
      admitCall(change, stepIndex)
      return
    case "ask": {
      const { book, open } = await deps.rules.current(change.run.workspaceId, scope.signal)
      const asked = { run: change.run, call, arguments: args, judgement }
      if (open < deps.approval.maxOpen) {
        openQuestion(change, asked, { book, defaultRule: deps.approval })
      } else {
        change.moveCall(stepIndex, "deny", { reason: "approval_limit_reached" })
        change.moveRun({ kind: "fail", reason: "approval_limit_reached" })
      }
      return
    }
    case "deny": {
      const denial = denialOf(judgement)
      change.moveCall(stepIndex, "deny", { reason: "policy_denied", policyDenial: denial })
      change.moveRun({ kind: "fail", reason: "policy_denied" }, denial)
      return
    }
  }
}

/** Asks people, and gives the run up to whoever is told of their answer. */
function openQuestion(change: Change, asked: Asked, rules: Rules): void {
  const { stepIndex } = asked.call
  change.moveCall(stepIndex, "ask", { reason: "approval_required" })
  change.openApproval(newQuestion(asked, rules, change.before.clock.now()))
  change.moveRun({ kind: "wait", reason: "approval_required" })
}

function verdictMembers(judgement: Judgement) {
  return {
    argumentsDigest: judgement.digest,
    verdict: judgement.verdict,
    decisionId: judgement.decisionId,
    policyVersion: judgement.policyVersion,
    matchedRules: judgement.matchedRules,
  }
}

function refuse(
  change: Change,
  stepIndex: number,
  reason: string,
  metadata?: Readonly<Record<string, string>>,
): void {
  const error = metadata === undefined ? undefined : { reason, message: "", metadata }
  change.moveCall(stepIndex, "deny", { reason, ...(error === undefined ? {} : { error }) })
  change.moveRun({ kind: "fail", reason: reason === "tool_unavailable" ? "tool_failed" : reason })
}

/** Why the arguments cannot be used; undefined where they can. */
async function validate(
  { tools, config }: StepDeps,
  run: RunRecord,
  { definitionDigest }: ToolCallRecord,
  args: JsonObject,
  scope: Scope,
): Promise<string | undefined> {
  for (let failures = 1; ; failures++) {
    try {
      await tools.validateArguments(
        { workspaceId: run.workspaceId, definitionDigest, arguments: args },
        actingAs(subjectOf(run), { signal: scope.signal, timeoutMs: config.moderateTimeoutMs }),
      )
      return undefined
    } catch (error) {
      scope.throwIfEnded()
      const reason = reasonOf(error)
      if (reason === "TOOL_ARGUMENTS_INVALID" || reason === "INVALID_REQUEST") {
        return "arguments_invalid"
      }
      if (reason === "UNKNOWN_TOOL" || failures > config.maxRetries) return "tool_unavailable"
      await pause(retryDelay(config.retryMs, failures), scope.signal)
    }
  }
}

/** Asks moderation under a deadline. Throws only where the scope ended: then nobody was judged. */
function ask(
  { moderation, config }: StepDeps,
  { run, before }: Place,
  about: Pick<Question, "subject" | "content" | "digest" | "call">,
  scope: Scope,
): Promise<Judgement> {
  const { call } = about
  const nameOf = (step: number) => before.calls[step]?.tool ?? ""
  const question = {
    ...about,
    run,
    provenance: (call?.provenance ?? []).map(nameOf),
    history: before.calls.slice(0, call?.stepIndex ?? 0).map(({ tool }) => tool),
  }
  const options = actingAs(subjectOf(run), { timeoutMs: config.moderateTimeoutMs })
  return scope.race(judge(moderation, question, options, scope))
}

/** The results that a step may refer to; a failed step's is its error. */
function resultsBefore(change: Change, stepIndex: number): ReadonlyMap<number, JsonValue> {
  const results = new Map<number, JsonValue>()
  for (let step = 0; step < stepIndex; step++) {
    const { state, result, error } = change.call(step)
    if (state === "succeeded" && result !== undefined) results.set(step, result)
    if (state === "failed" && error !== undefined) {
      results.set(step, { error: { ...error, metadata: { ...error.metadata } } })
    }
  }
  return results
}
