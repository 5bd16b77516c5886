/** Rules that ask a classifier, as parts of a policy. */
import { describe, expect, test } from "vitest"
import { toNewDecision } from "../decision-message.ts"
import { judgeNow } from "../judge.ts"
import { inputOf, ruleOf } from "../moderation-harness.ts"
import { compilePolicyNow } from "../policy.ts"
import type { Rule } from "../rule.ts"
import type { Classifier } from "./embedded.ts"

/** Scores a text by how often it says "bad", and keeps what it was asked. */
function createFake() {
  const asked: string[] = []
  const fake: Classifier = {
    labels: ["other", "bad"],
    *scoresOf(text) {
      yield
      asked.push(text)
      const score = text.includes("nan") ? Number.NaN : text.split("bad").length - 1
      return [1, score / 4]
    },
  }
  return { fake, asked }
}

const long = "a text that is long enough to stand for itself"

function classifierRule(threshold: number, change: Partial<Rule> = {}): Rule {
  return ruleOf({ kind: "classifier", classifier: "fake", label: "bad", threshold }, change)
}

function judged(content: Parameters<typeof inputOf>[0], ...rules: readonly Rule[]) {
  const { fake, asked } = createFake()
  const policy = compilePolicyNow("test@1", rules, new Map([["fake", fake]]))
  return { judgement: judgeNow(policy, inputOf(content)), asked }
}

describe("a rule that asks a classifier", () => {
  test("matches from its threshold on, and says where and how much", () => {
    const content = { list: [long, `${long}, bad bad`] }
    expect(judged(content, classifierRule(0.5)).judgement).toMatchObject({
      kind: "blocked",
      matches: [{ pointer: "/list/1", score: 0.5 }],
    })
    expect(judged(content, classifierRule(0.51)).judgement).toEqual({ kind: "allowed" })
  })

  test("finds what is said in pieces, none of which says it alone", () => {
    const { judgement } = judged({ a: "bad", b: { c: ["bad", "bad"] } }, classifierRule(0.75))
    expect(judgement).toMatchObject({ kind: "blocked", matches: [{ pointer: "" }] })
    const keys = { "bad in the first key": { "bad in the second key": 1, bad: 2 } }
    expect(judged(keys, classifierRule(0.75)).judgement.kind).toBe("blocked")
  })

  test("says where a short text stands that is the only one", () => {
    expect(judged({ a: { b: "bad" } }, classifierRule(0.25)).judgement).toMatchObject({
      matches: [{ pointer: "/a/b" }],
    })
  })

  test("sees a text as people read it, and what hides in it", () => {
    expect(judged({ text: "ＢА\u200bD" }, classifierRule(0.25)).judgement.kind).toBe("blocked")
    const hidden = [..."bad"].map((c) => String.fromCodePoint(0xe0000 + c.charCodeAt(0))).join("")
    expect(judged({ text: hidden }, classifierRule(0.25)).judgement.kind).toBe("blocked")
  })

  test("matches where there is no score", () => {
    expect(judged({ text: "nan" }, classifierRule(1)).judgement).toMatchObject({
      kind: "blocked",
      matches: [{ score: 1 }],
    })
  })

  test("asks once for all rules, and not at all where none applies", () => {
    const rules = [classifierRule(0.9, { ruleId: "a" }), classifierRule(0.8, { ruleId: "b" })]
    expect(judged({ text: long }, ...rules).asked).toEqual([long])
    const scope = { subjects: ["run_input"], tools: [], exceptTools: [], effects: [] } as const
    expect(judged({ text: long }, classifierRule(0.1, { scope })).asked).toEqual([])
  })

  test.each([
    ["fake2", "bad", "rules[0].classifier.classifier: it is none of those there are: fake"],
    ["fake", "worse", 'rules[0].classifier.label: "fake" knows other, bad'],
  ])("is refused with %s and %s", (classifier, label, message) => {
    const rule = ruleOf({ kind: "classifier", classifier, label, threshold: 0.5 })
    expect(() => judged({}, rule)).toThrow(message)
  })
})

test("a decision has the highest score of each category", () => {
  const { judgement } = judged(
    { text: "bad bad bad" },
    classifierRule(0.1, { ruleId: "a", category: "x" }),
    classifierRule(0.2, { ruleId: "b", category: "x" }),
    ruleOf({ kind: "words", words: ["bad"] }, { ruleId: "c", category: "y" }),
  )
  const about = {
    decisionId: "",
    subject: "tool_arguments",
    policyVersion: "test@1",
    tool: "",
    runId: "",
    stepIndex: 0,
  }
  const decision = toNewDecision(about, { judgement, contentDigest: "", latencyMicros: 1 })
  expect(decision.categories).toEqual({ x: 0.75, y: 1 })
})
