import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { reasonOf } from "../../mesh/errors.ts"
import {
  type ApprovalBinding,
  approvalDigest,
  approvalEvents,
  approvalStates,
  forbiddenBy,
  transitionApproval,
} from "./approval.ts"

const binding: ApprovalBinding = {
  workspaceId: "0199f1c2-7d4e-7c3a-9b1f-000000000001",
  runId: "0199f1c2-7d4e-7c3a-9b1f-000000000002",
  stepIndex: 2,
  tool: "projects/project.archive",
  definitionDigest: "ab".repeat(32),
  arguments: { project_id: "apollo", amount: 40, tags: ["a", "b"], note: null },
  policyVersion: "default@1",
  verdict: "allowed",
  requesterId: "0199f1c2-7d4e-7c3a-9b1f-000000000003",
  expiresAtMs: 1_780_000_000_000,
}

describe("transitionApproval", () => {
  const targets = {
    approve: "approved",
    reject: "rejected",
    expire: "expired",
    cancel: "cancelled",
    supersede: "superseded",
  } as const
  for (const state of approvalStates) {
    for (const event of approvalEvents) {
      it(`${state} + ${event} → ${state === "pending" ? targets[event] : "illegal"}`, () => {
        if (state === "pending") {
          expect(transitionApproval(state, event).state).toBe(targets[event])
          return
        }
        try {
          transitionApproval(state, event)
          expect.unreachable("nothing was refused")
        } catch (error) {
          expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
        }
      })
    }
  }
})

describe("approvalDigest", () => {
  const digest = approvalDigest(binding)

  it("does not depend on the order of keys", () => {
    const reordered = { note: null, tags: ["a", "b"], amount: 40, project_id: "apollo" }
    expect(approvalDigest({ ...binding, arguments: reordered })).toBe(digest)
  })

  it("differs for every other member of the binding", () => {
    const others: Partial<ApprovalBinding>[] = [
      { workspaceId: "0199f1c2-7d4e-7c3a-9b1f-000000000009" },
      { runId: "0199f1c2-7d4e-7c3a-9b1f-000000000009" },
      { stepIndex: 3 },
      { tool: "other/project.archive" },
      { definitionDigest: "ac".repeat(32) },
      { policyVersion: "default@2" },
      { verdict: "flagged" },
      { requesterId: "0199f1c2-7d4e-7c3a-9b1f-000000000009" },
      { expiresAtMs: binding.expiresAtMs + 1 },
    ]
    for (const other of others) expect(approvalDigest({ ...binding, ...other })).not.toBe(digest)
  })

  it("differs for arguments that only look the same", () => {
    const { arguments: given } = binding
    const mutants = [
      { ...given, amount: "40" },
      { ...given, amount: 40.5 },
      { ...given, extra: null },
      { project_id: "apollo", amount: 40, tags: ["a", "b"] },
      { ...given, project_id: "apollo " },
      { ...given, project_id: "apol\u200blo" },
      { ...given, project_id: "аpollo" },
      { ...given, tags: ["b", "a"] },
      { ...given, tags: ["a"] },
      {},
    ]
    const digests = mutants.map((one) => approvalDigest({ ...binding, arguments: one }))
    expect(new Set([digest, ...digests]).size).toBe(mutants.length + 1)
  })

  it("is an error for missing arguments, never the digest of null", () => {
    for (const missing of [undefined, null, []]) {
      expect(() => approvalDigest({ ...binding, arguments: missing as never })).toThrow(TypeError)
    }
  })

  it("finds any single change of any arguments", () => {
    const json = fc.dictionary(
      fc.string({ maxLength: 6 }).filter((key) => key !== "__proto__"),
      fc.oneof(fc.string({ maxLength: 8 }), fc.integer(), fc.boolean(), fc.constant(null)),
      { minKeys: 1, maxKeys: 5, noNullPrototype: true },
    )
    fc.assert(
      fc.property(json, json, (one, other) => {
        const sameValue = JSON.stringify(sorted(one)) === JSON.stringify(sorted(other))
        const same =
          approvalDigest({ ...binding, arguments: one }) ===
          approvalDigest({ ...binding, arguments: other })
        expect(same).toBe(sameValue)
      }),
      { seed: 22, numRuns: 500 },
    )
  })
})

describe("forbiddenBy", () => {
  const rule = { role: 3, isDistinctFromRequester: true }
  it("asks for the role and for somebody else", () => {
    expect(forbiddenBy(rule, "alice", { actorId: "bob", role: 3 })).toBeUndefined()
    expect(forbiddenBy(rule, "alice", { actorId: "bob", role: 4 })).toBeUndefined()
    expect(forbiddenBy(rule, "alice", { actorId: "bob", role: 2 })).toBe("role")
    expect(forbiddenBy(rule, "alice", { actorId: "alice", role: 4 })).toBe(
      "distinct_from_requester",
    )
    const lenient = { ...rule, isDistinctFromRequester: false }
    expect(forbiddenBy(lenient, "alice", { actorId: "alice", role: 3 })).toBeUndefined()
  })
})

function sorted(value: Record<string, unknown>): [string, unknown][] {
  return Object.entries(value)
    .map(([key, item]): [string, unknown] => [key, Object.is(item, -0) ? 0 : item])
    .sort(([a], [b]) => (a < b ? -1 : 1))
}
