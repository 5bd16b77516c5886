import type { MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import { type DecisionSchema, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import type { DecisionRow, NewDecision, StoredMatch } from "./decision-store.ts"
import type { Evaluation } from "./evaluation.ts"
import type { Judgement, Match } from "./judge.ts"
import { subjectNumber } from "./rule-message.ts"

/** What a decision is about, beside the content. */
export interface DecisionContext {
  readonly decisionId: string
  readonly subject: string
  readonly policyVersion: string
  readonly tool: string
  readonly runId: string
  readonly stepIndex: number | undefined
}

const maxFailureUnits = 500

/** An evaluation as the row that is stored. */
export function toNewDecision(context: DecisionContext, evaluation: Evaluation): NewDecision {
  const { judgement } = evaluation
  const matches = judgement.kind === "allowed" ? [] : judgement.matches
  return {
    decision_id: context.decisionId,
    subject: context.subject,
    verdict: verdictOf(judgement),
    categories: highestScores(matches),
    matched_rules: matches.map(toStoredMatch),
    policy_version: context.policyVersion,
    content_digest: evaluation.contentDigest,
    tool: storable(context.tool),
    run_id: context.runId,
    step_index: context.stepIndex ?? null,
    latency_micros: evaluation.latencyMicros,
    failure: judgement.kind === "failed" ? storable(judgement.failure) : "",
  }
}

/** A row as the message; without a time, one that is not stored. */
export function toDecision(
  workspaceId: string,
  row: NewDecision,
  createTime: Date | undefined,
): MessageInitShape<typeof DecisionSchema> {
  return {
    decisionId: row.decision_id,
    workspaceId,
    subject: subjectNumber(row.subject),
    verdict: verdictNumber(row.verdict),
    categories: { ...row.categories },
    matchedRules: row.matched_rules.map((match) => ({
      ruleId: match.rule_id,
      verdict: verdictNumber(match.verdict),
      category: match.category,
      pointer: match.pointer,
      description: match.description,
    })),
    policyVersion: row.policy_version,
    contentDigest: row.content_digest,
    tool: row.tool,
    runId: row.run_id,
    latencyMicros: Number(row.latency_micros),
    failure: row.failure,
    ...(row.step_index === null ? {} : { stepIndex: Number(row.step_index) }),
    ...(createTime === undefined ? {} : { createTime: timestampFromDate(createTime) }),
  }
}

/** A stored row as the message. */
export function storedDecision(
  workspaceId: string,
  row: DecisionRow,
): MessageInitShape<typeof DecisionSchema> {
  return { ...toDecision(workspaceId, row, row.create_time), replacedBy: row.replaced_by }
}

/** The verdict's name in the store; empty for one that filters nothing. */
export function verdictName(verdict: Verdict): string {
  switch (verdict) {
    case Verdict.ALLOWED:
      return "allowed"
    case Verdict.FLAGGED:
      return "flagged"
    case Verdict.BLOCKED:
      return "blocked"
    default:
      return ""
  }
}

/** Each category that was found, with the highest score of its rules, to four places. */
function highestScores(matches: readonly Match[]): Readonly<Record<string, number>> {
  const highest = new Map<string, number>()
  for (const { rule, score } of matches) {
    const rounded = Math.round(score * 10_000) / 10_000
    highest.set(rule.category, Math.max(highest.get(rule.category) ?? 0, rounded))
  }
  return Object.fromEntries(highest)
}

function verdictOf(judgement: Judgement): NewDecision["verdict"] {
  switch (judgement.kind) {
    case "allowed":
      return "allowed"
    case "flagged":
      return "flagged"
    case "blocked":
    case "failed":
      return "blocked"
    default:
      return judgement satisfies never
  }
}

function verdictNumber(verdict: NewDecision["verdict"]): Verdict {
  switch (verdict) {
    case "allowed":
      return Verdict.ALLOWED
    case "flagged":
      return Verdict.FLAGGED
    case "blocked":
      return Verdict.BLOCKED
    default:
      return Verdict.BLOCKED
  }
}

function toStoredMatch({ rule, pointer }: Match): StoredMatch {
  return {
    rule_id: rule.ruleId,
    verdict: rule.verdict,
    category: rule.category,
    pointer: storable(pointer),
    description: rule.description,
  }
}

// The database takes neither NUL nor half of a surrogate pair, which a cut may leave.
function storable(text: string): string {
  return text.slice(0, maxFailureUnits).toWellFormed().replaceAll("\0", "\ufffd")
}
