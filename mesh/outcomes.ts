/**
 * What a person is shown for every outcome that the contract knows: each state of a run, a tool call
 * and an approval, each reason they give, and each reason for which a call can fail. One table for
 * every user interface; it depends on the contract only, and says nothing about commands or pages.
 *
 * 1. What is not in the table is never shown as done or harmless: an unknown state is a failure, and
 *    an unknown reason keeps the tone of its state.
 * 2. Only SUCCEEDED and APPROVED have the tone `success`.
 */
import type { DescEnum } from "@bufbuild/protobuf"
import { ErrorReasonSchema } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import {
  type ApprovalState,
  ApprovalStateSchema,
} from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { type RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  type ToolCallState,
  ToolCallStateSchema,
} from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { callOutcomes } from "./outcome-calls.ts"
import { errorOutcomes } from "./outcome-errors.ts"
import { approvalOutcomes, runOutcomes } from "./outcome-runs.ts"

/** How an outcome should look. */
export type Tone = "progress" | "success" | "attention" | "failure" | "neutral"

/** What a person is shown. */
export interface Outcome {
  /** Two or three words. */
  readonly label: string
  readonly tone: Tone
  /** One or two sentences: what it means. */
  readonly explanation: string
  /** What to do; absent where there is nothing to do. */
  readonly next?: string
}

/** A state's own outcome, and what its reasons change about it. */
export interface StateOutcomes {
  readonly outcome: Outcome
  /** By `reason`, in lower_snake_case. */
  readonly reasons: Readonly<Record<string, Partial<Outcome>>>
}

/** The table: by the name of the state or reason without its prefix. */
export const outcomeTable = {
  run: runOutcomes,
  toolCall: callOutcomes,
  approval: approvalOutcomes,
  error: errorOutcomes,
} as const

/** What a run's or a call's denial adds to its reason. */
interface Denial {
  readonly failure: string
}

/** What to show for a run. */
export function describeRun(run: {
  readonly state: RunState
  readonly reason?: string
  readonly policyDenial?: Denial | undefined
}): Outcome {
  return lookUp("run", runOutcomes, nameOf(RunStateSchema, run.state), reasonOf(run))
}

/** What to show for a tool call. A result that moderation withholds is no plain success. */
export function describeToolCall(call: {
  readonly state: ToolCallState
  readonly reason?: string
  readonly policyDenial?: Denial | undefined
}): Outcome {
  const name = nameOf(ToolCallStateSchema, call.state)
  const isWithheld = name === "SUCCEEDED" && call.policyDenial !== undefined
  return lookUp("call", callOutcomes, name, isWithheld ? "result_withheld" : reasonOf(call))
}

/** What to show for an approval. */
export function describeApproval(approval: { readonly state: ApprovalState }): Outcome {
  const name = nameOf(ApprovalStateSchema, approval.state)
  return lookUp("approval", approvalOutcomes, name, "")
}

/** What to show for a failed call: `reason` is that of its ErrorInfo, as it came. */
export function describeError(reason: string): Outcome {
  const known = Object.hasOwn(errorOutcomes, reason)
  return known ? errorOutcomes[reason as keyof typeof errorOutcomes] : unknownError(reason)
}

/** The reasons of the contract's errors, without their prefix. */
export const errorReasons: readonly string[] = ErrorReasonSchema.values
  .filter(({ number }) => number !== 0)
  .map(({ localName }) => localName)

function reasonOf(thing: { readonly reason?: string; readonly policyDenial?: Denial | undefined }) {
  const { reason = "", policyDenial } = thing
  // A denial for want of a verdict is told apart from one that a rule made.
  return reason === "policy_denied" && policyDenial !== undefined && policyDenial.failure !== ""
    ? "moderation_unavailable"
    : reason
}

function nameOf(desc: DescEnum, value: number): string {
  return value === 0 ? "" : (desc.value[value]?.localName ?? "")
}

function lookUp(
  thing: string,
  table: Readonly<Record<string, StateOutcomes>>,
  state: string,
  reason: string,
): Outcome {
  if (!Object.hasOwn(table, state)) return unknownState(thing)
  const row = table[state]
  if (row === undefined) return unknownState(thing)
  if (reason === "") return row.outcome
  if (Object.hasOwn(row.reasons, reason)) return { ...row.outcome, ...row.reasons[reason] }
  return {
    ...row.outcome,
    label: `${row.outcome.label}: ${reason.replaceAll("_", " ")}`,
    explanation: `${row.outcome.explanation} The reason ${reason} is not known to this program.`,
  }
}

function unknownState(thing: string): Outcome {
  return {
    label: "unknown",
    tone: "failure",
    explanation: `This program does not know the state of the ${thing}: treat it as not done.`,
    next: "Update this program, and look again.",
  }
}

function unknownError(reason: string): Outcome {
  return {
    label: "unknown error",
    tone: "failure",
    explanation: `This program does not know the reason ${reason === "" ? "(none)" : reason}: treat it as not done.`,
    next: "Read the state again before you repeat anything.",
  }
}
