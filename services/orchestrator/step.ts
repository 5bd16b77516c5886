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
import type { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import type { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject, type Subject } from "../../mesh/identity.ts"
import { actionFor } from "./action.ts"
import type { Change } from "./change.ts"
import type { ExecutorConfig, OrchestratorConfig } from "./config.ts"
import { denialOf, type Judgement, judge } from "./judgement.ts"
import { pause, retryDelay } from "./pause.ts"
import { isLiteral, resolveArguments } from "./plan.ts"
import { type Asked, answersTo, newQuestion, type Rules } from "./question.ts"
import type { RuleBooks } from "./rule-books.ts"
import type { ApprovalRecord, RunRecord, ToolCallRecord } from "./snapshot.ts"
import type { SubjectName } from "./state-enum.ts"

export interface StepDeps {
  readonly moderation: Client<typeof ModerationService>
  readonly tools: Client<typeof ExecutionService>
  readonly config: ExecutorConfig
  readonly approval: OrchestratorConfig["approval"]
  readonly rules: RuleBooks
}

/** Judges the run's input, once and before anything else; true where the run may go on. */
export async function prepareInput(
  deps: StepDeps,
  change: Change,
  signal: AbortSignal,
): Promise<boolean> {
  const { run } = change
  if (run.input === "" || run.moderationOutcome !== undefined) return true
  const judgement = await ask(deps, change, "run_input", { input: run.input }, undefined, signal)
  change.judge(judgement)
  if (judgement.verdict !== "blocked") return true
  change.moveRun({ kind: "fail", reason: "policy_denied" }, denialOf(judgement))
  return false
}

/** Prepares a proposed call: leaves it executing, waiting for an approval, or denied. */
export async function prepareCall(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  signal: AbortSignal,
): Promise<void> {
  const call = change.call(stepIndex)
  change.moveCall(stepIndex, "moderate")
  const resolution = resolveArguments(call.plannedArguments, resultsBefore(change, stepIndex))
  if (resolution.kind === "unresolved") return refuse(change, stepIndex, "arguments_invalid")
  const { arguments: args, provenance } = resolution
  if (!isLiteral(call.plannedArguments)) {
    const fault = await validate(deps, change.run, call, args, signal)
    if (fault !== undefined) return refuse(change, stepIndex, fault)
  }
  change.setCall(stepIndex, { arguments: args, provenance })
  await decide(deps, change, stepIndex, args, signal)
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
  signal: AbortSignal,
): Promise<void> {
  const call = change.call(approval.stepIndex)
  const { stepIndex, arguments: args } = call
  if (args === undefined) throw new Error("an approved call has its arguments")
  const [judgement, { book }] = await Promise.all([
    ask(deps, change, "tool_arguments", args, call, signal),
    deps.rules.current(change.run.workspaceId, signal),
  ])
  const asked = { run: change.run, call, arguments: args, judgement }
  const rules = { book, defaultRule: deps.approval }
  if (isBacked && judgement.verdict !== "blocked" && answersTo(approval, asked, rules)) {
    change.judge(judgement, stepIndex)
    change.setCall(stepIndex, verdictMembers(judgement))
    change.consume(approval, approval.digest)
    change.moveCall(stepIndex, "execute", { attempts: call.attempts + 1 })
    return
  }
  change.moveCall(stepIndex, "supersede")
  await act(deps, change, stepIndex, { args, judgement }, signal)
}

/** Judges the result or error of a call that is about to be passed on. */
export function judgeResult(
  deps: StepDeps,
  change: Change,
  call: ToolCallRecord,
  content: JsonObject,
  signal: AbortSignal,
): Promise<Judgement> {
  return ask(deps, change, "tool_result", content, call, signal)
}

/** The requester, as whom everything of the run is done. */
export function subjectOf(run: RunRecord): Subject {
  return memberSubject(run.workspaceId, run.requesterId, run.requesterRole as never)
}

async function decide(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  args: JsonObject,
  signal: AbortSignal,
): Promise<void> {
  const call = change.call(stepIndex)
  const judgement = await ask(deps, change, "tool_arguments", args, call, signal)
  await act(deps, change, stepIndex, { args, judgement }, signal)
}

/** Turns a verdict on a moderating call into the next state. */
async function act(
  deps: StepDeps,
  change: Change,
  stepIndex: number,
  { args, judgement }: { readonly args: JsonObject; readonly judgement: Judgement },
  signal: AbortSignal,
): Promise<void> {
  change.judge(judgement, stepIndex)
  change.setCall(stepIndex, verdictMembers(judgement))
  const call = change.call(stepIndex)
  switch (actionFor({ ...call, verdict: judgement.verdict })) {
    case "execute":
      change.moveCall(stepIndex, "permit")
      change.moveCall(stepIndex, "execute", { attempts: call.attempts + 1 })
      return
    case "ask": {
      const { book, open } = await deps.rules.current(change.run.workspaceId, signal)
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

function refuse(change: Change, stepIndex: number, reason: string): void {
  change.moveCall(stepIndex, "deny", { reason })
  change.moveRun({ kind: "fail", reason: reason === "arguments_invalid" ? reason : "tool_failed" })
}

/** Why the arguments cannot be used; undefined where they can. */
async function validate(
  { tools, config }: StepDeps,
  run: RunRecord,
  { definitionDigest }: ToolCallRecord,
  args: JsonObject,
  signal: AbortSignal,
): Promise<string | undefined> {
  for (let failures = 1; ; failures++) {
    try {
      await tools.validateArguments(
        { workspaceId: run.workspaceId, definitionDigest, arguments: args },
        actingAs(subjectOf(run), { signal, timeoutMs: config.moderateTimeoutMs }),
      )
      return undefined
    } catch (error) {
      signal.throwIfAborted()
      const reason = reasonOf(error)
      if (reason === "TOOL_ARGUMENTS_INVALID" || reason === "INVALID_REQUEST") {
        return "arguments_invalid"
      }
      if (reason === "UNKNOWN_TOOL" || failures > config.maxRetries) return "tool_unavailable"
      await pause(retryDelay(config.retryMs, failures), signal)
    }
  }
}

/** Asks moderation under a deadline. Throws only where the signal aborted: then nobody was judged. */
async function ask(
  { moderation, config }: StepDeps,
  change: Change,
  subject: SubjectName,
  content: JsonObject,
  call: ToolCallRecord | undefined,
  signal: AbortSignal,
): Promise<Judgement> {
  const { run } = change
  const names = change.before.calls.map(({ tool }) => tool)
  const timeoutMs = config.moderateTimeoutMs
  // The second clock holds where a transport does not keep to the deadline it was given.
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs + 250)])
  const judgement = await judge(
    moderation,
    {
      subject,
      content,
      run,
      ...(call === undefined ? {} : { call }),
      provenance: (call?.provenance ?? []).map((step) => names[step] ?? ""),
      history: names.slice(0, run.stepIndex),
    },
    actingAs(subjectOf(run), { signal: bounded, timeoutMs }),
  )
  signal.throwIfAborted()
  return judgement
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
