import { createHash } from "node:crypto"
import type { JsonObject } from "@bufbuild/protobuf"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { digestOf } from "../../../mesh/canonical.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import {
  type ApprovalBinding,
  approvalEvents,
  approvalStates,
  argumentsOf,
  bind,
  previewOf,
  transitionApproval,
} from "./approval.ts"
import { mutantsOf, rich } from "./approval-mutants.ts"

const binding: ApprovalBinding = {
  workspaceId: "0199f1c2-7d4e-7c3a-9b1f-000000000001",
  runId: "0199f1c2-7d4e-7c3a-9b1f-000000000002",
  stepIndex: 2,
  title: "Pay the invoice",
  tool: "payments/transfer.create",
  toolVersion: "1.2.0",
  definitionDigest: "ab".repeat(32),
  riskClass: "high",
  effect: "keyed",
  arguments: rich,
  policyVersion: "default@1",
  verdict: "allowed",
  requesterId: "0199f1c2-7d4e-7c3a-9b1f-000000000003",
  rule: {
    ruleVersion: "rules@3",
    ruleId: "payments",
    approverRole: 3,
    isDistinctFromRequester: true,
    quorum: 2,
    allowsDelegation: true,
    allowsBreakGlass: false,
  },
  expiresAtMs: 1_780_000_000_000,
}
const digestFor = (changes: Partial<ApprovalBinding>) => bind({ ...binding, ...changes }).digest

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
      const isLegal =
        state === "pending" ||
        (state === "approved" && (event === "supersede" || event === "cancel"))
      it(`${state} + ${event} → ${isLegal ? targets[event] : "illegal"}`, () => {
        if (isLegal) {
          expect(transitionApproval(state, event).state).toBe(targets[event])
          return
        }
        try {
          transitionApproval(state, event)
          expect.unreachable("nothing was refused")
        } catch (error) {
          expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
          expect(metadataOf(error).allowed).toBe(
            state === "approved" ? "cancelled, superseded" : "",
          )
        }
      })
    }
  }
})

describe("the digest", () => {
  const { digest } = bind(binding)

  it("does not depend on the order of keys, at any depth", () => {
    const reversed = (value: unknown): unknown =>
      value === null || typeof value !== "object"
        ? value
        : Array.isArray(value)
          ? value.map(reversed)
          : Object.fromEntries(
              Object.entries(value)
                .reverse()
                .map(([key, item]) => [key, reversed(item)]),
            )
    expect(JSON.stringify(reversed(rich))).not.toBe(JSON.stringify(rich))
    expect(digestFor({ arguments: reversed(rich) as JsonObject })).toBe(digest)
  })

  it("is another one for each of more than 200 calls that are changed in one place", () => {
    const mutants = mutantsOf(binding)
    expect(mutants.length).toBeGreaterThanOrEqual(200)
    const digests = new Map([[digest, "the original"]])
    for (const mutant of mutants) {
      const other = bind(mutant.binding).digest
      expect([mutant.name, digests.get(other)]).toEqual([mutant.name, undefined])
      digests.set(other, mutant.name)
    }
  })

  it("covers every member: none may be missing", () => {
    for (const name of Object.keys(binding) as (keyof ApprovalBinding)[]) {
      expect(() => bind({ ...binding, [name]: undefined }), name).toThrow()
    }
    for (const name of Object.keys(binding.rule)) {
      const rule = { ...binding.rule, [name]: undefined } as never
      expect(() => bind({ ...binding, rule }), name).toThrow()
    }
    for (const missing of [undefined, null, []]) {
      expect(() => bind({ ...binding, arguments: missing as never })).toThrow(TypeError)
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
        expect(digestFor({ arguments: one }) === digestFor({ arguments: other })).toBe(sameValue)
      }),
      { seed: 22, numRuns: 500 },
    )
  })
})

describe("the preview", () => {
  const hidden =
    /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800\u00a0\u3000]/u

  it("is what is digested, title and call first", () => {
    const { text, digest } = bind(binding)
    const preview = previewOf(text)
    expect(digestOf(JSON.parse(preview))).toBe(digest)
    expect(createHash("sha256").update(text).digest("hex")).toBe(digest)
    expect(Object.keys(JSON.parse(preview)).slice(0, 3)).toEqual(["title", "tool", "tool_version"])
    expect(preview.split("\n")[1]).toBe('  "title": "Pay the invoice",')
    expect(argumentsOf(text)).toEqual(rich)
  })

  it("shows what would hide, or turn its surroundings around, by its number", () => {
    const args = {
      "to\u202e": "evil\u2066\u200b",
      tag: "ok\u{e0041}",
      escape: "\u001b[2J",
      blank: "a\u00a0b\u3164c",
      lines: "a\nb\u2028c",
    }
    const preview = previewOf(bind({ ...binding, arguments: args }).text)
    for (const shown of [
      '"to\\u202e": "evil\\u2066\\u200b"',
      '"tag": "ok\\udb40\\udc41"',
      '"escape": "\\u001b[2J"',
      '"blank": "a\\u00a0b\\u3164c"',
      '"lines": "a\\nb\\u2028c"',
    ]) {
      expect(preview).toContain(shown)
    }
  })

  it("hides nothing and stays the same value, whatever the arguments and titles", () => {
    const text = fc.string({ unit: "binary", maxLength: 12 })
    const value = fc.jsonValue({ stringUnit: "binary" })
    fc.assert(
      fc.property(
        text,
        fc.dictionary(text, value, { maxKeys: 4, noNullPrototype: true }),
        (title, args) => {
          fc.pre(title.isWellFormed() && JSON.stringify(args).isWellFormed())
          const bound = bind({ ...binding, title, arguments: args as JsonObject })
          const preview = previewOf(bound.text)
          expect(preview.replaceAll("\n", "")).not.toMatch(hidden)
          expect(digestOf(JSON.parse(preview))).toBe(bound.digest)
        },
      ),
      { seed: 3, numRuns: 500 },
    )
  })
})

function sorted(value: Record<string, unknown>): [string, unknown][] {
  return Object.entries(value)
    .map(([key, item]): [string, unknown] => [key, Object.is(item, -0) ? 0 : item])
    .sort(([a], [b]) => (a < b ? -1 : 1))
}
