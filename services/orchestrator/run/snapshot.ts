import type { JsonObject } from "@bufbuild/protobuf"
import type { Effect, RiskClass, Verdict } from "../action.ts"
import type { ApprovalState } from "../approval/approval.ts"
import type { StoredAnswer } from "../approval/approval-answer.ts"
import type { PinnedRule } from "../approval/approval-rule.ts"
import type { MaxUsage, RunBudget } from "../budget/budget.ts"
import type { RunState } from "./run.ts"
import type { ToolCallState } from "./tool-call.ts"

/** What a policy found, as `runwarden.errors.v1.PolicyDenial` in JSON. */
export interface Denial {
  readonly decisionId: string
  readonly verdict: "blocked"
  readonly categories: readonly string[]
  readonly matchedRules: readonly string[]
  readonly policyVersion: string
  readonly approvable: false
  /** Empty where a rule decided. */
  readonly failure: string
}

export interface RunRecord {
  readonly workspaceId: string
  readonly runId: string
  readonly threadId: string
  /** Whether it takes turns with the other runs of its thread. */
  readonly isInLine: boolean
  readonly requesterId: string
  /** The role by which the run acts, as the number of `options.v1.Role`. */
  readonly requesterRole: number
  readonly state: RunState
  readonly reason: string
  readonly policyDenial: Denial | undefined
  readonly moderationOutcome: Verdict | undefined
  /** Undefined where it may use up any amount. */
  readonly budget: RunBudget | undefined
  /** Calls that were admitted. */
  readonly usedCalls: number
  readonly usedInputTokens: number
  readonly usedOutputTokens: number
  readonly usedCostMicros: number
  /** Entries of its history. */
  readonly eventCount: number
  /** Bytes of the arguments and results of its calls. */
  readonly payloadBytes: number
  readonly planName: string
  /** The plan as JSON, without the arguments of its steps; empty in lists. */
  readonly plan: string
  /** Those, which are stored with its calls. */
  readonly planArguments: readonly JsonObject[]
  readonly input: string
  readonly stepIndex: number
  readonly stepCount: number
  readonly epoch: number
  readonly revision: number
  readonly traceId: string
  readonly traceParent: string
  readonly requestId: string
  /** When it is to begin; undefined for at once. */
  readonly startTime: Date | undefined
  readonly deadline: Date
  readonly createTime: Date
  readonly updateTime: Date
  readonly endTime: Date | undefined
}

export interface ToolFailure {
  readonly reason: string
  readonly message: string
  readonly metadata: Readonly<Record<string, string>>
}

export interface ToolCallRecord {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly toolCallId: string
  readonly idempotencyKey: string
  readonly tool: string
  readonly toolVersion: string
  readonly definitionDigest: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly title: string
  readonly onError: "stop" | "continue"
  /** How long it may take from when it was admitted; undefined for as long as its run. */
  readonly timeoutMs: number | undefined
  /** What is held in budgets while it is carried out; undefined where its tool does not declare it. */
  readonly maxUsage: MaxUsage | undefined
  readonly state: ToolCallState
  readonly reason: string
  readonly policyDenial: Denial | undefined
  readonly plannedArguments: JsonObject
  /** Whether the planned arguments hold no reference: then they are the arguments. */
  readonly isLiteral: boolean
  /** SHA-256 of the canonical planned arguments, where this process has just planned the call. */
  readonly plannedDigest?: string
  readonly arguments: JsonObject | undefined
  readonly argumentsDigest: string | undefined
  readonly provenance: readonly number[]
  readonly verdict: Verdict | undefined
  readonly decisionId: string
  readonly policyVersion: string
  readonly matchedRules: readonly string[]
  readonly moderationOutcome: Verdict | undefined
  readonly approvalId: string | undefined
  readonly attempts: number
  readonly result: JsonObject | undefined
  readonly error: ToolFailure | undefined
  readonly isWithheld: boolean
  readonly settlerId: string
  readonly traceId: string
  readonly revision: number
  readonly createTime: Date
  readonly updateTime: Date
  readonly startTime: Date | undefined
  readonly endTime: Date | undefined
}

export interface ApprovalRecord {
  readonly workspaceId: string
  readonly approvalId: string
  readonly runId: string
  readonly stepIndex: number
  readonly toolCallId: string
  readonly tool: string
  readonly toolVersion: string
  readonly definitionDigest: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly title: string
  /** The bytes of the question, which `digest` is of; empty in lists. */
  readonly binding: string
  readonly verdict: Verdict
  readonly policyVersion: string
  readonly matchedRules: readonly string[]
  readonly requesterId: string
  readonly rule: PinnedRule
  readonly digest: string
  readonly state: ApprovalState
  /** How many have said yes; those that broke the glass apart. */
  readonly approveCount: number
  readonly isGlassBroken: boolean
  /** In the order in which they came; empty in lists. */
  readonly answers: readonly StoredAnswer[]
  /** Whose answer decided; empty before. */
  readonly deciderId: string
  readonly comment: string
  readonly expireTime: Date
  readonly decideTime: Date | undefined
  readonly consumeTime: Date | undefined
  readonly createTime: Date
}

/** One run with everything that its next step depends on, as the database had it at `now`. */
export interface Snapshot {
  readonly run: RunRecord
  /** By step. */
  readonly calls: readonly ToolCallRecord[]
  /** The approval that the current call waits for or was given. */
  readonly approval: ApprovalRecord | undefined
  readonly clock: Clock
}

/** The clock of the database, carried on by this process's monotonic one. */
export interface Clock {
  now(): number
}

export function clockFrom(databaseNow: Date): Clock {
  const offset = databaseNow.getTime() - performance.now()
  return { now: () => Math.floor(offset + performance.now()) }
}

/** The time of the database, as far as this process knows it. */
export function nowOf({ clock }: Pick<Snapshot, "clock">): Date {
  return new Date(clock.now())
}

/** Where a run stands, as far as an owner that vanished there matters. */
export function placeOf({ run, calls }: Pick<Snapshot, "run" | "calls">): string {
  return `${run.stepIndex} ${calls[run.stepIndex]?.state}`
}
