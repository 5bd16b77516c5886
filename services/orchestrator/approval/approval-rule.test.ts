import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Effect, RiskClass, Verdict } from "../action.ts"
import {
  type ApprovalRule,
  type DefaultRule,
  defaultBook,
  type RuleScope,
  ruleFor,
} from "./approval-rule.ts"

const otherwise: DefaultRule = {
  approverRole: 3,
  isDistinctFromRequester: true,
  quorum: 1,
  allowsDelegation: false,
  allowsBreakGlass: false,
  expiryMs: 1000,
}
const everything: RuleScope = { tools: [], riskClasses: [], effects: [], verdicts: [] }
const call = {
  tool: "projects/document.delete",
  riskClass: "high" as RiskClass,
  effect: "keyed" as Effect,
  verdict: "allowed" as Verdict,
}

function rule(ruleId: string, scope: Partial<RuleScope>, quorum = 2): ApprovalRule {
  return { ...otherwise, ruleId, quorum, scope: { ...everything, ...scope }, expiryMs: undefined }
}

function chosen(rules: readonly ApprovalRule[], given = call) {
  return ruleFor({ ruleVersion: "rules@3", rules }, given, otherwise).pinned
}

describe("ruleFor", () => {
  it("takes the first rule that fits, and pins its version", () => {
    const rules = [
      rule("reads", { effects: ["read"] }),
      rule("deletes", { tools: ["projects/*.delete"] }, 3),
      rule("all", {}, 4),
    ]
    expect(chosen(rules)).toMatchObject({ ruleVersion: "rules@3", ruleId: "deletes", quorum: 3 })
    expect(chosen(rules, { ...call, effect: "read" }).ruleId).toBe("reads")
    expect(chosen(rules, { ...call, tool: "orders/refund" }).ruleId).toBe("all")
  })

  it("takes the default where none fits, with its expiry", () => {
    const found = ruleFor(defaultBook, call, otherwise)
    expect(found).toMatchObject({
      expiryMs: 1000,
      pinned: { ruleVersion: "default@1", ruleId: "default", quorum: 1, approverRole: 3 },
    })
    const fitless = [rule("flagged", { verdicts: ["flagged"] })]
    expect(chosen(fitless)).toMatchObject({ ruleVersion: "rules@3", ruleId: "default", quorum: 1 })
  })

  it("keeps a rule's own expiry", () => {
    const book = { ruleVersion: "rules@1", rules: [{ ...rule("all", {}), expiryMs: 5 }] }
    expect(ruleFor(book, call, otherwise).expiryMs).toBe(5)
  })

  it.each<[Partial<RuleScope>, boolean]>([
    [{ riskClasses: ["high"] }, true],
    [{ riskClasses: ["low", "medium"] }, false],
    [{ effects: ["keyed", "unsafe"] }, true],
    [{ effects: ["unsafe"] }, false],
    [{ verdicts: ["allowed"] }, true],
    [{ verdicts: ["flagged"] }, false],
    [{ tools: ["projects/document.delete"] }, true],
    [{ tools: ["projects/document.delete2"] }, false],
    [{ tools: ["document.delete"] }, false],
    [{ tools: ["projects/*"], effects: ["unsafe"] }, false],
    [{ tools: ["*"] }, true],
    [{ tools: ["*.delete"] }, true],
    [{ tools: ["projects/*document.*"] }, true],
    [{ tools: ["projects/**t.*e*"] }, true],
    [{ tools: ["*x*"] }, false],
    [{ tools: ["projects/document.delete*delete"] }, false],
    [{ tools: [] }, true],
  ])("%j fits: %s", (scope, isFit) => {
    expect(chosen([rule("it", scope)]).ruleId === "it").toBe(isFit)
  })

  it("matches names like the regular expression would, and in no more than linear time", () => {
    const letters = fc.string({ unit: fc.constantFrom("a", "b", "/", ".", "*"), maxLength: 8 })
    fc.assert(
      fc.property(
        letters,
        fc.string({ unit: fc.constantFrom("a", "b", "/", "."), maxLength: 12 }),
        (pattern, tool) => {
          const pieces = pattern.split("*").map((piece) => piece.replaceAll(".", "\\."))
          const expected = new RegExp(`^${pieces.join(".*")}$`).test(tool)
          expect(
            chosen([rule("it", { tools: [pattern] })], { ...call, tool }).ruleId === "it",
          ).toBe(expected)
        },
      ),
      { seed: 3, numRuns: 2_000 },
    )
    const started = performance.now()
    const hard = { tools: [`${"a*".repeat(100)}b`] }
    expect(chosen([rule("it", hard)], { ...call, tool: "a".repeat(200) }).ruleId).toBe("default")
    expect(performance.now() - started).toBeLessThan(100)
  })
})
