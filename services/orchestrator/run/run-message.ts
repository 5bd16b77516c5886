import { create, fromBinary, fromJsonString, type MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt"
import { PolicyDenialSchema } from "../../../gen/runwarden/errors/v1/policy_denial_pb.ts"
import { RunBudgetSchema } from "../../../gen/runwarden/orchestrator/v1/budget_pb.ts"
import { type Plan, PlanSchema } from "../../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import type { RunEvent } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { type Run, RunSchema } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ListRunEventsResponseSchema } from "../../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { RunBudget } from "../budget/budget.ts"
import type { RunLimits } from "../budget/run-limits.ts"
import type { JournalRow } from "../journal/journal-store.ts"
import { runStateEnum, verdictEnum } from "../state-enum.ts"
import type { Denial, RunRecord } from "./snapshot.ts"

/**
 * A run as the contract shows it; one that was read for a list has no plan. `plan` saves reading the
 * stored one where it is at hand.
 */
export function toRun(run: RunRecord, limits: RunLimits, plan?: Plan): Run {
  return create(RunSchema, {
    workspaceId: run.workspaceId,
    runId: run.runId,
    threadId: run.threadId,
    requesterId: run.requesterId,
    state: runStateEnum[run.state],
    reason: run.reason,
    planName: run.planName,
    input: run.input,
    stepIndex: run.stepIndex,
    stepCount: run.stepCount,
    usage: {
      toolCalls: run.usedCalls,
      inputTokens: BigInt(run.usedInputTokens),
      outputTokens: BigInt(run.usedOutputTokens),
      costMicros: BigInt(run.usedCostMicros),
      events: run.eventCount,
      payloadBytes: BigInt(run.payloadBytes),
    },
    limits: { maxEvents: limits.events.most, maxPayloadBytes: BigInt(limits.payloadBytes.most) },
    deadline: timestampFromDate(run.deadline),
    traceId: run.traceId,
    requestId: run.requestId,
    etag: etagOf(run),
    createTime: timestampFromDate(run.createTime),
    updateTime: timestampFromDate(run.updateTime),
    ...(run.plan === "" ? {} : { plan: plan ?? toPlan(run) }),
    ...(run.budget === undefined ? {} : { budget: toBudget(run.budget) }),
    ...(run.policyDenial === undefined ? {} : { policyDenial: toDenial(run.policyDenial) }),
    ...(run.moderationOutcome === undefined
      ? {}
      : { moderationOutcome: verdictEnum[run.moderationOutcome] }),
    ...(run.startTime === undefined ? {} : { startTime: timestampFromDate(run.startTime) }),
    ...(run.endTime === undefined ? {} : { endTime: timestampFromDate(run.endTime) }),
  })
}

export function toPlan({ plan, planArguments }: RunRecord): Plan {
  const read = fromJsonString(PlanSchema, plan)
  read.steps.forEach((step, index) => {
    step.arguments = planArguments[index] ?? {}
  })
  return read
}

function toBudget(budget: RunBudget): MessageInitShape<typeof RunBudgetSchema> {
  const { maxCalls = 0, maxWallMs, maxTokens = 0, maxCostMicros = 0, maxSteps = 0 } = budget
  return create(RunBudgetSchema, {
    maxToolCalls: maxCalls,
    maxSteps,
    maxTokens: BigInt(maxTokens),
    maxCostMicros: BigInt(maxCostMicros),
    ...(maxWallMs === undefined ? {} : { maxWallTime: durationFromMs(maxWallMs) }),
  })
}

export function toDenial(denial: Denial): MessageInitShape<typeof PolicyDenialSchema> {
  const { categories, matchedRules } = denial
  return create(PolicyDenialSchema, {
    ...denial,
    categories: [...categories],
    matchedRules: [...matchedRules],
  })
}

/** The entries of a row that come after a sequence, with their places and their time. */
export function toRunEvents(row: JournalRow, after: number): readonly RunEvent[] {
  const time = timestampFromDate(row.createTime)
  const { events } = fromBinary(ListRunEventsResponseSchema, row.entries)
  events.forEach((event, index) => {
    event.sequence = BigInt(row.firstSequence + index)
    event.time = time
  })
  return events.slice(Math.max(0, after + 1 - row.firstSequence))
}

export function etagOf({ revision }: { readonly revision: number }): string {
  return `r${revision}`
}
