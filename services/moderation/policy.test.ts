import { describe, expect, it } from "vitest"
import { shippedClassifiers } from "./classifier/embedded.ts"
import { judge } from "./judge.ts"
import {
  expressionRule,
  inputOf,
  patternRule,
  policyOf,
  ruleOf,
  wordRule,
} from "./moderation-harness.ts"
import { compilePolicy, InvalidPolicy } from "./policy.ts"
import { globTest, type Rule } from "./rule.ts"
import { finish, type Steps } from "./slices.ts"

/** What is wrong with a policy whose second rule is the given one. */
function problemOf(rule: Rule): string {
  try {
    policyOf({ ...wordRule("fine"), ruleId: "first" }, rule)
    return "none"
  } catch (error) {
    if (error instanceof InvalidPolicy) return error.message
    throw error
  }
}

describe("an expression is refused", () => {
  it.each([
    ["subject == 'x' &&\n  (1 + ", "found & but expecting end of input, at 1:16"],
    ["amount > 1.0", 'there is no variable "amount"'],
    ["false && explode(1)", 'there is no function "explode"'],
    ["runwarden_meter(true)", 'there is no function "runwarden_meter"'],
    ["'x'", "the expression gives no boolean"],
    ["arguments.amount > 1.0", "field not found: amount; guard it with has()"],
    ["tool.matches('(a?){1000}a{1000}')", "its counted repeats sum up to more than 512"],
    ["tool.matches('(a')", "missing closing )"],
    ["tool.matches(subject)", "the pattern of matches() must be a constant"],
    [
      "history.all(a, history.all(b, history.all(c, a == b || b == c)))",
      "it loops more than 2 deep",
    ],
    [`${"(".repeat(5_000)}true${")".repeat(5_000)}`, "nested too deeply"],
    [`${Array.from({ length: 200 }, () => "risk_class == 'low'").join(" || ")}`, "parts"],
    ["google.protobuf.Struct{} == {}", 'there is no message "google.protobuf.Struct"'],
  ])("%s", (expression, problem) => {
    const found = problemOf(expressionRule(expression))
    expect(found).toMatch(/^rules\[1\]\.expression: /)
    expect(found).toContain(problem)
  })
})

describe("a pattern is refused", () => {
  it.each([
    ["(a", "missing closing )"],
    ["(?=a)b", "invalid"],
    ["(a?){1000}a{1000}", "its counted repeats sum up to more than 512"],
    ["((a{10}){10}){9}", "instructions, more than 256"],
    ["((a{20}){20}){20}", "invalid repeat count"],
    ["x*", "it matches the empty text"],
    ["x".repeat(513), "longer than 512 characters"],
  ])("%s", (pattern, problem) => {
    const found = problemOf(patternRule("fine", pattern))
    expect(found).toMatch(/^rules\[1\]\.patterns\.patterns\[1\]: /)
    expect(found).toContain(problem)
  })
})

describe("a policy is refused", () => {
  it.each([
    [[], "rules: a policy needs at least one rule"],
    [[wordRule("a"), wordRule("b")], 'rules[1].rule_id: "the-rule" is there twice'],
    [[wordRule("a", "?!")], "rules[0].words.words[1]: it holds no letter or digit"],
    [[wordRule("a", "\u200b")], "rules[0].words.words[1]: it holds no letter or digit"],
    [many(201, (n) => [wordRule(`w${n}`)]), "rules: more than 200 rules"],
    [
      many(9, (n) => [{ ...patternRule(...many(60, (m) => [`p${n}x${m}`])), ruleId: `r${n}` }]),
      "rules[8].patterns: more",
    ],
  ])("%#", (rules, problem) => {
    expect(() => policyOf(...rules)).toThrow(problem)
  })
})

describe("nothing stalls the loop", () => {
  const limitMs = 50

  it.each([
    ["(a+)+$", ["(a+)+$"]],
    ["nested optionals as large as they are taken", ["(?:a?){60}a{60}"]],
    ["optional classes", ["(?i)(?:[a-z]?){60}[0-9]"]],
    ["ambiguous tails", ["(?:a|b)*a(?:a|b){120}c", "(?:[ab]?){60}[ab]{60}"]],
    ["letters of any script", ["(?i)\\pL{200}\\d"]],
    ["many at once", many(60, (n) => [`(?:a?){20}a{20}b{${(n % 9) + 1}}c`])],
  ])("with the patterns %s", (_, patterns) => {
    const policy = policyOf(patternRule(...patterns))
    const texts = [`${"a".repeat(60_000)}!`, "ab".repeat(30_000), "éa".repeat(30_000)]
    for (const text of texts) {
      expect(slowestStep(judge(policy, inputOf({ text })))).toBeLessThan(limitMs)
    }
  })

  it.each([
    ["nested loops", "has(arguments.l) && arguments.l.all(a, arguments.l.all(b, a + b >= 0.0))"],
    [
      "loops over copies",
      "has(arguments.l) && arguments.l.map(a, arguments.l + arguments.l).size() > 0",
    ],
    ["comparing the whole", Array.from({ length: 30 }, () => "content == content").join(" && ")],
    ["(a+)+$ on a long text", "has(arguments.s) && arguments.s.matches('(a+)+$')"],
  ])("with the expression of %s", (_, expression) => {
    const policy = policyOf(expressionRule(expression))
    const l = Array.from({ length: 4_000 }, (__, n) => n)
    const input = inputOf({
      l,
      s: "a".repeat(100_000),
      o: Object.fromEntries(l.map((n) => [n, n])),
    })
    expect(slowestStep(judge(policy, input))).toBeLessThan(limitMs)
  })

  it.each([
    ["many classes", "(?i)\\pL{20}"],
    ["nothing but classes", "\\pL".repeat(120)],
    ["long alternatives", "(?i)(?:alpha|beta|gamma|delta|epsilon){2}"],
  ])("while a policy of %s is compiled", (_, pattern) => {
    const rules = many(2, (n) => [
      { ...patternRule(...many(20, (m) => [`${pattern}p${n}x${m}`])), ruleId: `r${n}` },
    ])
    expect(slowestStep(compilePolicy("test@1", rules, shippedClassifiers()))).toBeLessThan(limitMs)
  })

  it("while a text of a million characters is normalised", () => {
    const policy = policyOf(wordRule("apple"), { ...patternRule("pear"), ruleId: "pears" })
    for (const piece of ["Ünïcödé ", "plain ", "\u200bа", "字"]) {
      const text = piece.repeat(Math.floor(1_000_000 / piece.length))
      expect(slowestStep(judge(policy, inputOf({ text })))).toBeLessThan(limitMs)
    }
  })
})

describe("a glob", () => {
  it.each([
    ["*", "anything", true],
    ["projects/*", "projects/project.create", true],
    ["projects/*", "project", false],
    ["*/document.*", "projects/document.create", true],
    ["*.search", "retrieval/document.search", true],
    ["a*a", "a", false],
    ["a*b*c", "a-c-b-c", true],
    ["a*b*c", "a-c-b", false],
    ["exact", "exact", true],
    ["exact", "exactly", false],
  ])("%s on %s", (glob, name, fits) => {
    expect(globTest(glob)(name)).toBe(fits)
  })
})

it("a rule without a matcher is refused", () => {
  const rule = ruleOf({ kind: "nothing" } as never)
  expect(() => finish(compilePolicy("test@1", [rule], shippedClassifiers()))).toThrow(
    "it has no matcher",
  )
})

// CPU time of this thread, because wall time would count what other processes do.
function slowestStep(steps: Steps<unknown>): number {
  let slowest = 0
  for (let isDone = false; !isDone; ) {
    const before = process.threadCpuUsage()
    isDone = steps.next().done === true
    const used = process.threadCpuUsage(before)
    slowest = Math.max(slowest, (used.user + used.system) / 1_000)
  }
  return slowest
}

function many<T>(count: number, make: (index: number) => readonly T[]): readonly T[] {
  return Array.from({ length: count }, (_, index) => index).flatMap(make)
}
