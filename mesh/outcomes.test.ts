import { create, type DescEnum } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { ErrorReasonSchema } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import { PolicyDenialSchema } from "../gen/runwarden/errors/v1/policy_denial_pb.ts"
import { ApprovalStateSchema } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  ToolCallState,
  ToolCallStateSchema,
} from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import {
  describeApproval,
  describeError,
  describeRun,
  describeToolCall,
  errorReasons,
  type Outcome,
  outcomeTable,
} from "./outcomes.ts"

const tones = ["progress", "success", "attention", "failure", "neutral"]

function names(desc: DescEnum): string[] {
  return desc.values.filter(({ number }) => number !== 0).map(({ localName }) => localName)
}

function numbers(desc: DescEnum): number[] {
  return desc.values.map(({ number }) => number).filter((number) => number !== 0)
}

function expectComplete(outcome: Outcome): void {
  expect(outcome.label).toMatch(/^\S.{1,40}$/)
  expect(tones).toContain(outcome.tone)
  expect(outcome.explanation).toMatch(/^[A-Z].*\.$/s)
  if (outcome.next !== undefined) expect(outcome.next).toMatch(/^[A-Z].*\.$/s)
}

describe("the table holds every state and reason of the contract, and nothing else", () => {
  test.each([
    ["run", outcomeTable.run, RunStateSchema],
    ["tool call", outcomeTable.toolCall, ToolCallStateSchema],
    ["approval", outcomeTable.approval, ApprovalStateSchema],
    ["error", outcomeTable.error, ErrorReasonSchema],
  ])("%s", (_, table, schema) => {
    expect(Object.keys(table).sort()).toEqual(names(schema as DescEnum).sort())
  })
})

test("every outcome can be shown", () => {
  for (const [name, { reasons }] of Object.entries(outcomeTable.run)) {
    const state = RunState[name as keyof typeof RunState]
    for (const reason of ["", ...Object.keys(reasons)]) {
      expectComplete(describeRun({ state, reason }))
    }
  }
  for (const [name, { reasons }] of Object.entries(outcomeTable.toolCall)) {
    const state = ToolCallState[name as keyof typeof ToolCallState]
    for (const reason of ["", ...Object.keys(reasons)]) {
      expectComplete(describeToolCall({ state, reason }))
    }
  }
  for (const state of numbers(ApprovalStateSchema)) {
    expectComplete(describeApproval({ state: state as never }))
  }
  for (const reason of errorReasons) {
    expectComplete(describeError(reason))
    expect(describeError(reason).next).toBeDefined()
    expect(describeError(reason).tone).not.toBe("success")
  }
})

test("nothing but a success looks like one", () => {
  const successes = [
    ...numbers(RunStateSchema).map((state) => describeRun({ state: state as RunState })),
    ...numbers(ToolCallStateSchema).map((state) =>
      describeToolCall({ state: state as ToolCallState }),
    ),
    ...numbers(ApprovalStateSchema).map((state) => describeApproval({ state: state as never })),
  ].filter(({ tone }) => tone === "success")
  expect(successes.map(({ label }) => label)).toEqual(["succeeded", "succeeded", "confirmed"])
})

describe("what is not known fails closed", () => {
  test.each([0, 99, -1])("a state %i is a failure", (state) => {
    for (const outcome of [
      describeRun({ state: state as RunState }),
      describeToolCall({ state: state as ToolCallState }),
      describeApproval({ state: state as never }),
    ]) {
      expect(outcome).toMatchObject({ label: "unknown", tone: "failure" })
      expect(outcome.explanation).toContain("treat it as not done")
    }
  })

  test.each(["brand_new", "constructor", "toString", "__proto__"])("a reason %s", (reason) => {
    const failed = describeRun({ state: RunState.FAILED, reason })
    expect(failed.tone).toBe("failure")
    expect(failed.label).toContain(reason.replaceAll("_", " "))
    const error = describeError(reason)
    expect(error.tone).toBe("failure")
    expect(error.explanation).toContain("treat it as not done")
  })

  test("an unknown reason never changes how bad its state is", () => {
    expect(describeRun({ state: RunState.SUCCEEDED, reason: "odd" }).tone).toBe("success")
    expect(describeToolCall({ state: ToolCallState.OUTCOME_UNKNOWN, reason: "odd" }).tone).toBe(
      "attention",
    )
  })
})

test("a denial for want of a verdict is told apart from one by a rule", () => {
  const state = RunState.FAILED
  const failure = create(PolicyDenialSchema, { failure: "moderation_unavailable" })
  const rule = create(PolicyDenialSchema, { matchedRules: ["no-secrets"] })
  expect(describeRun({ state, reason: "policy_denied", policyDenial: failure }).label).toBe(
    "denied: moderation away",
  )
  expect(describeRun({ state, reason: "policy_denied", policyDenial: rule }).label).toBe(
    "denied by policy",
  )
})

test("a withheld result is done, but no plain success", () => {
  const policyDenial = create(PolicyDenialSchema, { matchedRules: ["no-secrets"] })
  const outcome = describeToolCall({ state: ToolCallState.SUCCEEDED, reason: "", policyDenial })
  expect(outcome).toMatchObject({ label: "done, result withheld", tone: "attention" })
})
