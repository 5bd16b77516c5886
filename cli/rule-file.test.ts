import { readFileSync } from "node:fs"
import path from "node:path"
import { describe, expect, test } from "vitest"
import { Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Effect, RiskClass } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { CliError } from "./failure.ts"
import { readRuleFile } from "./rule-file.ts"

test("the example is read as it is meant", () => {
  const file = path.join(import.meta.dirname, "../examples/approval-rules.yaml")
  const { description, rules } = readRuleFile(readFileSync(file, "utf8"), file)
  expect(description).toContain("Two admins")
  expect(rules.map(({ ruleId }) => ruleId)).toEqual(["irreversible", "deletions", "doubtful"])
  expect(rules[0]).toMatchObject({
    scope: { effects: [Effect.UNSAFE], tools: [] },
    approverRole: Role.ADMIN,
    quorum: 2,
    expiry: { seconds: 14_400n },
    requesterMayAnswer: false,
    delegationAllowed: false,
    breakGlassAllowed: true,
  })
  expect(rules[1]).toMatchObject({
    scope: { tools: ["*.delete", "*.archive"], riskClasses: [RiskClass.HIGH] },
    approverRole: Role.UNSPECIFIED,
    quorum: 0,
    delegationAllowed: true,
  })
  expect(rules[2]).toMatchObject({ scope: { verdicts: [Verdict.FLAGGED] }, quorum: 2 })
})

describe("every fault is named with its line", () => {
  test.each<[string, string, string]>([
    ["no mapping", "- a", "line 1: the file is a mapping with rules"],
    ["no rules", "description: x", "line 1: rules is a list, the first that fits counts"],
    ["no id", "rules:\n  - quorum: 2", "line 2: a rule needs an id"],
    [
      "a slip",
      "rules:\n  - id: a\n    quorom: 2",
      'a rule has no field "quorom"; did you mean quorum?',
    ],
    ["no role", "rules:\n  - id: a\n    approver_role: boss", "line 3: this is one of viewer"],
    ["no count", "rules:\n  - id: a\n    quorum: two", "line 3: quorum is a whole number"],
    ["no length", "rules:\n  - id: a\n    expiry: soon", "line 3: expiry must be a length of time"],
    ["no flag", "rules:\n  - id: a\n    delegation_allowed: 1", "line 3: this is true or false"],
    ["no list", "rules:\n  - id: a\n    tools: x/y", "line 3: this must be a list"],
    ["no class", "rules:\n  - id: a\n    risk_classes: [huge]", "line 3: this is one of low"],
    ["broken YAML", "rules: [", "line 1: "],
  ])("%s", (_, text, fault) => {
    try {
      readRuleFile(text, "rules.yaml")
      expect.unreachable("a broken file was read")
    } catch (error) {
      if (!(error instanceof CliError)) throw error
      const faults = error.failure.fields.map(
        ({ field, description }) => `${field}: ${description}`,
      )
      expect(faults.join("\n")).toContain(fault)
    }
  })
})
