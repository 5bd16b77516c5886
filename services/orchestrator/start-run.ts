/** StartRun: check and pin everything first, then store the run whole, then go on with it. */
import { create, toJsonString } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import type { CallOptions, Client } from "@connectrpc/connect"
import { OnError, type Plan, PlanSchema } from "../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import {
  RunService,
  type StartRunRequest,
  type StartRunResponse,
  StartRunResponseSchema,
} from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import type { ResolvedTool } from "../../gen/runwarden/tools/v1/resolution_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { recordEvents } from "../../mesh/events.ts"
import type { Caller } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { activeTraceId } from "../../mesh/tracing.ts"
import type { Executor, Reservation } from "./executor.ts"
import { encodeEntry, runChanged, runStarted } from "./history.ts"
import { checkPlan, type PlanStep } from "./plan.ts"
import { toRun } from "./run-message.ts"
import { insertRun, type NewRun } from "./run-store.ts"
import { clockFrom, type RunRecord, type ToolCallRecord } from "./snapshot.ts"
import { activeTraceParent } from "./span.ts"
import { toEffect, toRiskClass } from "./state-enum.ts"
import { refuseNul } from "./text.ts"
import { pinTools } from "./tool-pinning.ts"

export interface StartRunDeps {
  readonly database: Database
  readonly tools: Client<typeof ExecutionService>
  readonly executor: Executor
  readonly runTimeoutMs: number
  changed(): void
}

/** Starts a run, or answers what was answered to this request before. */
export async function startRun(
  deps: StartRunDeps,
  request: StartRunRequest,
  caller: Caller,
  options: CallOptions,
): Promise<StartRunResponse> {
  const prepared = await prepare(deps, request, caller, options).catch((error: unknown) => error)
  // Given back once the run has begun here, or never will.
  using lease = isNewRun(prepared) ? prepared.lease : undefined
  let started: RunRecord | undefined
  const response = await answerOnce(
    deps.database,
    RunService.method.startRun,
    request,
    async (tx) => {
      // Thrown in here, so that a request which was answered before gets that answer instead.
      if (!isNewRun(prepared)) throw prepared
      const stored = await insertRun(tx, prepared)
      await recordEvents(tx, [runChanged(stored, 0).event])
      started = stored
      return create(StartRunResponseSchema, { run: toRun(stored) })
    },
    options.signal === undefined ? {} : { signal: options.signal },
  )
  if (isNewRun(prepared) && started !== undefined && response.run?.runId === prepared.run.runId) {
    deps.changed()
    if (lease === undefined) deps.executor.poke()
    else deps.executor.begin(begun(prepared, started), lease)
  }
  return response
}

/** A run that may be stored, with its place at this replica where there is one. */
interface Prepared extends NewRun {
  readonly lease: Reservation | undefined
}

function isNewRun(value: unknown): value is Prepared {
  return typeof value === "object" && value !== null && !(value instanceof Error)
}

/** The stored run with its calls, as the first step needs it: nothing is read back. */
function begun({ calls }: NewRun, run: RunRecord) {
  return { run, calls, approval: undefined, clock: clockFrom(run.createTime) }
}

async function prepare(
  { tools, executor, runTimeoutMs }: StartRunDeps,
  request: StartRunRequest,
  caller: Caller,
  options: CallOptions,
): Promise<Prepared> {
  const { workspaceId, plan, timeout } = request
  if (plan === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "plan" })
  refuseNul({ input: request.input, ...textsOf(plan) })
  const steps = plan.steps.map(
    (step): PlanStep => ({
      tool: step.tool,
      version: step.version,
      arguments: step.arguments ?? {},
      onError: step.onError === OnError.CONTINUE ? "continue" : "stop",
      title: step.title,
    }),
  )
  checkPlan(steps)
  const pinned = await pinTools(tools, workspaceId, steps, options)
  const planned = newRun(request, plan, caller)
  const calls = pinned.map((tool, index) => newCall(planned, steps[index] as PlanStep, index, tool))
  // Last, since nothing that may fail comes between it and whoever gives it back.
  const lease = executor.reserve()
  const run = {
    ...planned,
    state: lease === undefined ? ("queued" as const) : ("running" as const),
  }
  const started = encodeEntry(runStarted(run as RunRecord))
  const entry = encodeEntry(runChanged({ ...run, createTime: new Date() } as RunRecord, 0).entry)
  const timeoutMs = timeout === undefined ? runTimeoutMs : durationMs(timeout)
  return { run, timeoutMs, calls, entries: [started, entry], lease }
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
  plan: Plan,
  caller: Caller,
): Omit<NewRun["run"], "state"> {
  return {
    workspaceId: request.workspaceId,
    runId: newId(),
    threadId: request.threadId === "" ? newId() : request.threadId,
    requesterId: caller.actorId,
    requesterRole: caller.role,
    reason: "",
    policyDenial: undefined,
    moderationOutcome: undefined,
    planName: plan.name,
    plan: toJsonString(PlanSchema, plan),
    input: request.input,
    stepIndex: 0,
    stepCount: plan.steps.length,
    epoch: 1,
    revision: 1,
    traceId: activeTraceId(),
    traceParent: activeTraceParent(),
    requestId: request.requestId,
  }
}

function newCall(
  run: Pick<NewRun["run"], "workspaceId" | "runId">,
  step: PlanStep,
  stepIndex: number,
  tool: ResolvedTool,
) {
  const now = new Date()
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
    state: "proposed",
    reason: "",
    policyDenial: undefined,
    plannedArguments: step.arguments,
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
    revision: 1,
    createTime: now,
    updateTime: now,
    startTime: undefined,
    endTime: undefined,
  } satisfies ToolCallRecord
}
