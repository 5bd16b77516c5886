/** What the tests of the service share: rules in short, and a served service of their own. */

import { create, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf"
import { Subject, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import { DecisionService } from "../../gen/runwarden/moderation/v1/decision_service_pb.ts"
import { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { RuleSchema } from "../../gen/runwarden/moderation/v1/policy_pb.ts"
import { PolicyService } from "../../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import type { TestDatabase } from "../../mesh/test-database.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import { shippedClassifiers } from "./classifier/embedded.ts"
import { judgeNow } from "./judge.ts"
import { compilePolicyNow, type JudgeInput, type Policy } from "./policy.ts"
import type { Rule, RuleMatcher } from "./rule.ts"
import { createModeration } from "./service.ts"

/** A rule that blocks everywhere, save for what is given. */
export function ruleOf(matcher: RuleMatcher, change: Partial<Rule> = {}): Rule {
  return {
    ruleId: "the-rule",
    verdict: "blocked",
    category: "violence",
    description: "It is not allowed.",
    scope: { subjects: [], tools: [], exceptTools: [], effects: [] },
    matcher,
    ...change,
  }
}

export function expressionRule(expression: string, change: Partial<Rule> = {}): Rule {
  return ruleOf({ kind: "expression", expression }, change)
}

export function patternRule(...patterns: readonly string[]): Rule {
  return ruleOf({ kind: "patterns", patterns, check: "none" })
}

export function wordRule(...words: readonly string[]): Rule {
  return ruleOf({ kind: "words", words })
}

export function policyOf(...rules: readonly Rule[]): Policy {
  return compilePolicyNow("test@1", rules, shippedClassifiers())
}

export function inputOf(content: JsonObject, change: Partial<JudgeInput> = {}): JudgeInput {
  return {
    subject: "tool_arguments",
    tool: "projects/project.create",
    content,
    actor: { id: "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51", role: "member" },
    risk: "low",
    effect: "keyed",
    history: [],
    provenance: [],
    ...change,
  }
}

/** The kind of judgement that a rule gives on a text. */
export function kindOn(rule: Rule, text: string): string {
  return judgeNow(policyOf(rule), inputOf({ text })).kind
}

export function ruleMessage(change: MessageInitShape<typeof RuleSchema> = {}) {
  return create(RuleSchema, {
    ruleId: "no-apples",
    verdict: Verdict.BLOCKED,
    category: "illicit",
    description: "Apples are not allowed.",
    matcher: { case: "words", value: { words: ["apple"] } },
    ...change,
  })
}

/** The service over the local transport, on a database of its own or as another replica on a given one. */
export async function serveModeration(replicaOn?: TestDatabase) {
  const stack = new AsyncDisposableStack()
  const database = replicaOn ?? stack.use(await testDatabase("moderation"))
  const runtime = testRuntime("moderation")
  const service = stack.use(createModeration({ database, evaluationLimitMs: 5_000 }, { runtime }))
  await service.start(new AbortController().signal)
  const target = { routes: service.routes, runtime }
  return {
    database,
    moderation: testClient(ModerationService, target, "orchestrator"),
    policies: testClient(PolicyService, target),
    decisions: testClient(DecisionService, target),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

export type ServedModeration = Awaited<ReturnType<typeof serveModeration>>

/** Call options of a member of a workspace. */
export function as(workspaceId: string, role: Role = Role.ADMIN) {
  return actingAs(memberSubject(workspaceId, newId(), role))
}

/** A request to judge the arguments of a call. */
export function moderateRequest(workspaceId: string, content: JsonObject) {
  return {
    workspaceId,
    subject: Subject.TOOL_ARGUMENTS,
    content,
    runId: newId(),
    stepIndex: 0,
    tool: "projects/project.create",
    riskClass: RiskClass.LOW,
    effect: Effect.KEYED,
  }
}
