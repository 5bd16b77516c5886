import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf"
import { Subject, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import {
  MatchCheck,
  type Rule as RuleMessage,
  RuleSchema,
  type RuleScope as ScopeMessage,
} from "../../gen/runwarden/moderation/v1/policy_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { digestOf } from "../../mesh/canonical.ts"
import { InvalidPolicy } from "./policy.ts"
import type { EffectName, RiskName, Rule, RuleMatcher, RuleVerdict, SubjectName } from "./rule.ts"

const subjects: ReadonlyMap<Subject, SubjectName> = new Map([
  [Subject.RUN_INPUT, "run_input"],
  [Subject.TOOL_ARGUMENTS, "tool_arguments"],
  [Subject.TOOL_RESULT, "tool_result"],
])

const verdicts: ReadonlyMap<Verdict, RuleVerdict> = new Map([
  [Verdict.FLAGGED, "flagged"],
  [Verdict.BLOCKED, "blocked"],
])

/** The subject by name; undefined for one that this release does not know. */
export function subjectName(subject: Subject): SubjectName | undefined {
  return subjects.get(subject)
}

/** The subject's number in the contract. */
export function subjectNumber(name: string): Subject {
  for (const [number, each] of subjects) if (each === name) return number
  return Subject.UNSPECIFIED
}

/** The effect by name; whatever is not known may not be repeated. */
export function effectName(effect: Effect): EffectName {
  if (effect === Effect.READ) return "read"
  return effect === Effect.KEYED ? "keyed" : "unsafe"
}

/** The risk class by name; whatever is not known is high. */
export function riskName(risk: RiskClass): RiskName {
  if (risk === RiskClass.LOW) return "low"
  return risk === RiskClass.MEDIUM ? "medium" : "high"
}

/** The role as expressions see it; empty for a service. */
export function roleName(role: Role): string {
  switch (role) {
    case Role.VIEWER:
      return "viewer"
    case Role.MEMBER:
      return "member"
    case Role.APPROVER:
      return "approver"
    case Role.ADMIN:
      return "admin"
    default:
      return ""
  }
}

/** The rules of a message. Throws `InvalidPolicy` where one holds what this release does not know. */
export function toRules(messages: readonly RuleMessage[]): readonly Rule[] {
  return messages.map(toRule)
}

/** Rules as they are stored: their Protobuf JSON, which `readRules` reads again. */
export function storedRules(messages: readonly RuleMessage[]): JsonValue {
  return messages.map((message) => toJson(RuleSchema, message))
}

/** Reads stored rules. Throws where they are none. */
export function readRules(stored: JsonValue): readonly RuleMessage[] {
  if (!Array.isArray(stored)) throw new InvalidPolicy("rules", "they are no list")
  return stored.map((rule) => fromJson(RuleSchema, rule))
}

/** SHA-256 (hex) over the canonical JSON of rules. */
export function digestOfRules(messages: readonly RuleMessage[]): string {
  return digestOf(storedRules(messages))
}

function toRule(message: RuleMessage, index: number): Rule {
  const field = `rules[${index}]`
  const verdict = verdicts.get(message.verdict)
  if (verdict === undefined) {
    throw new InvalidPolicy(`${field}.verdict`, "it is neither FLAGGED nor BLOCKED")
  }
  return {
    ruleId: message.ruleId,
    verdict,
    category: message.category,
    description: message.description,
    scope: {
      subjects: (message.scope?.subjects ?? []).map((each) => toSubject(each, field)),
      tools: message.scope?.tools ?? [],
      exceptTools: message.scope?.exceptTools ?? [],
      effects: (message.scope?.effects ?? []).map((each) => toEffect(each, field)),
    },
    matcher: toMatcher(message, field),
  }
}

function toSubject(subject: ScopeMessage["subjects"][number], field: string): SubjectName {
  const name = subjects.get(subject)
  if (name === undefined) throw new InvalidPolicy(`${field}.scope.subjects`, "it is not known")
  return name
}

function toEffect(effect: Effect, field: string): EffectName {
  if (effect === Effect.READ || effect === Effect.KEYED || effect === Effect.UNSAFE) {
    return effectName(effect)
  }
  throw new InvalidPolicy(`${field}.scope.effects`, "it is not known")
}

function toMatcher({ matcher }: RuleMessage, field: string): RuleMatcher {
  switch (matcher.case) {
    case "expression":
      return { kind: "expression", expression: matcher.value }
    case "words":
      return { kind: "words", words: matcher.value.words }
    case "patterns": {
      const { patterns, check } = matcher.value
      if (check !== MatchCheck.UNSPECIFIED && check !== MatchCheck.LUHN) {
        throw new InvalidPolicy(`${field}.patterns.check`, "it is not known")
      }
      return { kind: "patterns", patterns, check: check === MatchCheck.LUHN ? "luhn" : "none" }
    }
    case "classifier": {
      const { classifier, label, threshold } = matcher.value
      return { kind: "classifier", classifier, label, threshold }
    }
    default:
      throw new InvalidPolicy(field, "it has no matcher")
  }
}
