import { readFileSync } from "node:fs"
import path from "node:path"
import { describe, expect, test } from "vitest"
import { Subject, Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { MatchCheck } from "../gen/runwarden/moderation/v1/policy_pb.ts"
import { Effect } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { CliError } from "./failure.ts"
import { readPolicyFile } from "./policy-file.ts"

test("the example is read as it is meant", () => {
  const file = path.join(import.meta.dirname, "../examples/policy.yaml")
  const { name, rules } = readPolicyFile(readFileSync(file, "utf8"), file)
  expect(name).toBe("house")
  expect(rules.map(({ matcher }) => matcher.case)).toEqual([
    "patterns",
    "words",
    "expression",
    "classifier",
  ])
  expect(rules[0]).toMatchObject({
    ruleId: "card-numbers",
    verdict: Verdict.BLOCKED,
    category: "personal-data/payment-card",
    scope: { subjects: [Subject.TOOL_ARGUMENTS], effects: [Effect.KEYED, Effect.UNSAFE] },
    matcher: { value: { check: MatchCheck.LUHN } },
  })
  expect(rules[2]).toMatchObject({ scope: { tools: ["mail/*"] } })
  expect(rules[3]?.matcher.value).toMatchObject({
    classifier: "embedded",
    label: "prompt-injection",
    threshold: 0.9,
  })
})

const rule = "id: a\n    verdict: flagged\n    category: c\n    description: d"

describe("every fault is named with its line", () => {
  test.each<[string, string, string]>([
    ["no mapping", "- a", "line 1: the file is a mapping with a name and rules"],
    ["no name", "rules: []", "line 1: name is needed"],
    ["no rules", "name: x", "line 1: rules is a list"],
    ["no id", "name: x\nrules:\n  - verdict: flagged", "line 3: id is needed"],
    ["a slip", `name: x\nrules:\n  - ${rule}\n    word: [b]`, "did you mean words?"],
    ["no verdict", "name: x\nrules:\n  - id: a", "line 3: a rule needs a verdict"],
    ["another verdict", "name: x\nrules:\n  - verdict: bad", "line 3: this is one of"],
    ["no matcher", `name: x\nrules:\n  - ${rule}`, "line 3: a rule has one of expression"],
    [
      "two matchers",
      `name: x\nrules:\n  - ${rule}\n    words: [b]\n    patterns: [c]`,
      "line 3: a rule has one of expression",
    ],
    ["no list", `name: x\nrules:\n  - ${rule}\n    words: b`, "line 7: this must be a list"],
    [
      "luhn elsewhere",
      `name: x\nrules:\n  - ${rule}\n    words: [b]\n    luhn: true`,
      "line 8: luhn goes with patterns",
    ],
    [
      "no classifier",
      `name: x\nrules:\n  - ${rule}\n    classifier: embedded`,
      "line 7: classifier is a mapping",
    ],
    [
      "no threshold",
      `name: x\nrules:\n  - ${rule}\n    classifier: { name: e, label: hate, threshold: high }`,
      "line 7: threshold is a number",
    ],
    ["broken YAML", "name: [", "line 1: "],
  ])("%s", (_, text, fault) => {
    try {
      readPolicyFile(text, "policy.yaml")
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
