/** A run as a request plans it, with its tools pinned, before anything is stored. */
import { createHash } from "node:crypto"
import { durationMs } from "@bufbuild/protobuf/wkt"
import type { CallOptions, Client } from "@connectrpc/connect"
import type { RunBudget as RunBudgetMessage } from "../../../gen/runwarden/orchestrator/v1/budget_pb.ts"
import { OnError, type Plan } from "../../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import type { StartRunRequest } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import type { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import type { ResolvedTool } from "../../../gen/runwarden/tools/v1/resolution_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import type { Caller } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { activeTraceId } from "../../../mesh/tracing.ts"
import type { MaxUsage, RunBudget } from "../budget/budget.ts"
import type { RunLimits } from "../budget/run-limits.ts"
import { activeTraceParent } from "../engine/span.ts"
import { clockFrom, type RunRecord, type Snapshot, type ToolCallRecord } from "../run/snapshot.ts"
import { toEffect, toRiskClass } from "../state-enum.ts"
import { refuseNul } from "../text.ts"
import { checkPlan, isLiteral, type PlanStep } from "./plan.ts"
import { pinTools } from "./tool-pinning.ts"

/** A plan that may be carried out, as far as the request itself tells. */
export interface CheckedPlan {
  readonly steps: readonly PlanStep[]
  /** The canonical arguments of each step. */
  readonly texts: readonly string[]
  /** How large all of them are. */
  readonly bytes: number
}

/** Checks what needs nobody to be asked. */
export function checkRequest({ plan, input }: StartRunRequest, limits: RunLimits): CheckedPlan {
  if (plan === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "plan" })
  refuseBeyond("plan_steps", plan.steps.length, limits.maxSteps)
  refuseNul({ input, ...textsOf(plan) })
  const steps = plan.steps.map(
    (step): PlanStep => ({
      tool: step.tool,
      version: step.version,
      arguments: step.arguments ?? {},
      onError: step.onError === OnError.CONTINUE ? "continue" : "stop",
      title: step.title,
      ...(step.timeout === undefined ? {} : { timeoutMs: durationMs(step.timeout) }),
    }),
  )
  const checked = checkPlan(steps, limits.maxArgumentBytes)
  const bytes = checked.reduce((sum, each) => sum + each.bytes, 0)
  refuseBeyond("run_payload_bytes", bytes, limits.payloadBytes.most)
  return { steps, texts: checked.map(({ text }) => text), bytes }
}

function refuseBeyond(limit: string, size: number, most: number): void {
  if (size > most) throw new RunwardenError("LIMIT_EXCEEDED", { limit, maximum: String(most) })
}

/** The run as it will begin: its tools are pinned, and nothing is stored. */
export async function planRun(
  tools: Client<typeof ExecutionService>,
  request: StartRunRequest,
  { steps, texts, bytes }: CheckedPlan,
  caller: Caller,
  options: CallOptions,
): Promise<Snapshot> {
  const pinned = await pinTools(tools, request.workspaceId, steps, options)
  const run = newRun(request, steps, bytes, caller)
  const calls = steps.map((step, index) =>
    newCall(run, step, index, pinned[index] as ResolvedTool, texts[index] ?? ""),
  )
  return { run, calls, approval: undefined, clock: clockFrom(run.createTime) }
}

function textsOf(plan: Plan): Record<string, string> {
  return Object.fromEntries([
    ["plan.name", plan.name],
    ...plan.steps.flatMap((step, index) => [
      [`plan.steps[${index}].tool`, step.tool],
      [`plan.steps[${index}].version`, step.version],
      [`plan.steps[${index}].title`, step.title],
    ]),
  ])
}

function newRun(
  request: StartRunRequest,
  steps: readonly PlanStep[],
  payloadBytes: number,
  caller: Caller,
): RunRecord {
  const planName = request.plan?.name ?? ""
  const now = new Date()
  return {
    workspaceId: request.workspaceId,
    runId: newId(),
    threadId: request.threadId === "" ? newId() : request.threadId,
    isInLine: request.threadId !== "",
    requesterId: caller.actorId,
    requesterRole: caller.role,
    state: "queued",
    reason: "",
    policyDenial: undefined,
    moderationOutcome: undefined,
    budget: toBudget(request.budget),
    ...{ usedCalls: 0, usedInputTokens: 0, usedOutputTokens: 0, usedCostMicros: 0 },
    ...{ eventCount: 0, payloadBytes },
    planName,
    plan: planText(planName, steps),
    planArguments: steps.map((step) => step.arguments),
    input: request.input,
    stepIndex: 0,
    stepCount: steps.length,
    epoch: 1,
    revision: 0,
    traceId: activeTraceId(),
    traceParent: activeTraceParent(),
    requestId: request.requestId,
    // Until the database says when it was.
    deadline: now,
    startTime: undefined,
    createTime: now,
    updateTime: now,
    endTime: undefined,
  }
}

function toBudget(budget: RunBudgetMessage | undefined): RunBudget | undefined {
  if (budget === undefined) return undefined
  const { maxToolCalls, maxWallTime, maxTokens, maxCostMicros, maxSteps } = budget
  return {
    ...(maxToolCalls === 0 ? {} : { maxCalls: maxToolCalls }),
    ...(maxWallTime === undefined ? {} : { maxWallMs: durationMs(maxWallTime) }),
    ...(maxTokens === 0n ? {} : { maxTokens: Number(maxTokens) }),
    ...(maxCostMicros === 0n ? {} : { maxCostMicros: Number(maxCostMicros) }),
    ...(maxSteps === 0 ? {} : { maxSteps }),
  }
}

/**
 * The plan as JSON of its message, without arguments, which are stored with the calls; written by hand,
 * since a general writer costs as much as a step.
 */
function planText(name: string, steps: readonly PlanStep[]): string {
  return JSON.stringify({
    name,
    steps: steps.map(({ onError, timeoutMs, arguments: _, ...step }) => ({
      ...step,
      onError: onErrorNames[onError],
      ...(timeoutMs === undefined ? {} : { timeout: `${timeoutMs / 1_000}s` }),
    })),
  })
}

const onErrorNames = { stop: "ON_ERROR_STOP", continue: "ON_ERROR_CONTINUE" } as const

function timeoutOf({ defaultTimeout }: ResolvedTool): number | undefined {
  return defaultTimeout === undefined ? undefined : durationMs(defaultTimeout)
}

function maxUsageOf({ maxUsage }: ResolvedTool): MaxUsage | undefined {
  if (maxUsage === undefined) return undefined
  const { inputTokens, outputTokens, costMicros } = maxUsage
  return { tokens: Number(inputTokens + outputTokens), costMicros: Number(costMicros) }
}

function newCall(
  run: RunRecord,
  step: PlanStep,
  stepIndex: number,
  tool: ResolvedTool,
  text: string,
) {
  const now = run.createTime
  const isFinal = isLiteral(step.arguments)
  return {
    workspaceId: run.workspaceId,
    runId: run.runId,
    stepIndex,
    toolCallId: newId(),
    idempotencyKey: `${run.runId}/${stepIndex}`,
    tool: tool.fullName,
    toolVersion: tool.version,
    definitionDigest: tool.definitionDigest,
    riskClass: toRiskClass(tool.riskClass),
    effect: toEffect(tool.effect),
    title: step.title,
    onError: step.onError,
    timeoutMs: step.timeoutMs ?? timeoutOf(tool),
    maxUsage: maxUsageOf(tool),
    state: "proposed",
    reason: "",
    policyDenial: undefined,
    plannedArguments: step.arguments,
    isLiteral: isFinal,
    ...(isFinal ? { plannedDigest: createHash("sha256").update(text).digest("hex") } : {}),
    arguments: undefined,
    argumentsDigest: undefined,
    provenance: [],
    verdict: undefined,
    decisionId: "",
    policyVersion: "",
    matchedRules: [],
    moderationOutcome: undefined,
    approvalId: undefined,
    attempts: 0,
    result: undefined,
    error: undefined,
    isWithheld: false,
    settlerId: "",
    traceId: "",
    revision: 0,
    createTime: now,
    updateTime: now,
    startTime: undefined,
    endTime: undefined,
  } satisfies ToolCallRecord
}
