/**
 * Who answers for which call: rules as data, in versions that never change. No I/O, no clock, no ids.
 *
 * Invariants:
 * 1. The first rule that fits counts. Where none fits, the deployment's default does: there is no
 *    call that nobody has to answer for.
 * 2. A rule says who answers, never whether a call is asked about.
 * 3. What is left out of a rule is the stricter choice.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { Effect, RiskClass, Verdict } from "../action.ts"

/** What a rule fits. An empty list does not narrow. */
export interface RuleScope {
  /** Full names; `*` stands for any characters. */
  readonly tools: readonly string[]
  readonly riskClasses: readonly RiskClass[]
  readonly effects: readonly Effect[]
  readonly verdicts: readonly Verdict[]
}

/** What an approval is asked for under. */
export interface RuleTerms {
  /** Least role that may answer, as the number of `options.v1.Role`. */
  readonly approverRole: number
  readonly isDistinctFromRequester: boolean
  /** How many persons have to say yes. */
  readonly quorum: number
  readonly allowsDelegation: boolean
  readonly allowsBreakGlass: boolean
}

/** The terms when nothing else is said, and how long they leave for an answer. */
export interface DefaultRule extends RuleTerms {
  readonly expiryMs: number
}

export interface ApprovalRule extends RuleTerms {
  readonly ruleId: string
  readonly scope: RuleScope
  /** Undefined leaves it to the default. */
  readonly expiryMs: number | undefined
}

/** The rules by which a workspace asks. */
export interface RuleBook {
  readonly ruleVersion: string
  readonly rules: readonly ApprovalRule[]
}

/** The rule of one approval, pinned when it is asked for: data of its row from then on. */
export interface PinnedRule extends RuleTerms {
  readonly ruleVersion: string
  readonly ruleId: string
}

/** The version that every workspace starts with: the default rule alone. */
export const defaultBook: RuleBook = { ruleVersion: "default@1", rules: [] }
export const defaultRuleId = "default"

/** What a rule looks at. */
export interface RuledCall {
  readonly tool: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly verdict: Verdict
}

/** The rule for a call. */
export function ruleFor(
  book: RuleBook,
  call: RuledCall,
  otherwise: DefaultRule,
): { readonly pinned: PinnedRule; readonly expiryMs: number } {
  const rule = book.rules.find(({ scope }) => fits(scope, call))
  const { approverRole, isDistinctFromRequester, quorum, allowsDelegation, allowsBreakGlass } =
    rule ?? otherwise
  return {
    pinned: {
      ruleVersion: book.ruleVersion,
      ruleId: rule?.ruleId ?? defaultRuleId,
      approverRole,
      isDistinctFromRequester,
      quorum,
      allowsDelegation,
      allowsBreakGlass,
    },
    expiryMs: rule?.expiryMs ?? otherwise.expiryMs,
  }
}

/** A pinned rule as people are shown it, and as the digest covers it. */
export function ruleJson(rule: PinnedRule): JsonObject {
  return {
    version: rule.ruleVersion,
    id: rule.ruleId,
    approver_role: roleWord(rule.approverRole),
    distinct_from_requester: rule.isDistinctFromRequester,
    quorum: rule.quorum,
    delegation_allowed: rule.allowsDelegation,
    break_glass_allowed: rule.allowsBreakGlass,
  }
}

function roleWord(role: number): string {
  if (role === Role.APPROVER) return "approver"
  if (role === Role.ADMIN) return "admin"
  throw new TypeError("an approval asks for an approver or an admin")
}

function fits(scope: RuleScope, call: RuledCall): boolean {
  return (
    (scope.tools.length === 0 || scope.tools.some((pattern) => fitsName(pattern, call.tool))) &&
    fitsOne(scope.riskClasses, call.riskClass) &&
    fitsOne(scope.effects, call.effect) &&
    fitsOne(scope.verdicts, call.verdict)
  )
}

function fitsOne<Word>(words: readonly Word[], word: Word): boolean {
  return words.length === 0 || words.includes(word)
}

/** Matches piece by piece from the left, so that no pattern takes longer than the name is long. */
function fitsName(pattern: string, name: string): boolean {
  const [first = "", ...pieces] = pattern.split("*")
  const last = pieces.pop()
  if (last === undefined) return pattern === name
  if (!name.startsWith(first)) return false
  let at = first.length
  for (const piece of pieces) {
    const found = name.indexOf(piece, at)
    if (found < 0) return false
    at = found + piece.length
  }
  return name.length - last.length >= at && name.endsWith(last)
}
