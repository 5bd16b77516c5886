/**
 * What an answer to an approval means. No I/O, no clock, no ids.
 *
 * Invariants:
 * 1. Only who the pinned rule lets answer is heard; there is no answer that widens the rule.
 * 2. The quorum counts persons, each once: a delegate and the one he answers for are one.
 * 3. Where somebody else is asked for, the requester is neither the one who answers nor the one
 *    answered for, and breaks no glass.
 * 4. One no is a no.
 * 5. An approval is worth at its use what the standing of those behind it is worth then.
 */
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { PinnedRule } from "./approval-rule.ts"

/** One person's answer. */
export interface GivenAnswer {
  readonly actorId: string
  /** The role by which it counts: the actor's own, or the delegator's. */
  readonly role: number
  readonly answer: "approve" | "reject"
  readonly comment: string
  /** For whom and by what the actor answers; undefined where it is for himself. */
  readonly delegation: { readonly delegationId: string; readonly delegatorId: string } | undefined
  /** Why an admin says yes alone; undefined for any other answer. */
  readonly breakGlassReason: string | undefined
}

/** An answer as it is stored. */
export interface StoredAnswer extends GivenAnswer {
  /** Whether the delegation it was given by, if any, was in force when this was read. */
  readonly isInForce: boolean
  readonly createTime: Date
}

/** Which part of the rule forbids an answer. */
export type Forbidden =
  | "role"
  | "distinct_from_requester"
  | "delegation"
  | "break_glass"
  | "already_answered"

/** What an answer leads to. */
export type Weighed =
  | { readonly kind: "forbidden"; readonly rule: Forbidden }
  /** The same person has said the same: nothing changes. */
  | { readonly kind: "repeated" }
  /** It counts; `undefined` where the approval still waits for others. */
  | { readonly kind: "counted"; readonly decision: "approve" | "reject" | undefined }

/** The question that is answered, as far as answers depend on it. */
export interface Question {
  readonly requesterId: string
  readonly rule: PinnedRule
  readonly answers: readonly GivenAnswer[]
}

/** Weighs an answer to a question that is open. */
export function weighAnswer(question: Question, given: GivenAnswer): Weighed {
  const rule = forbiddenBy(question, given)
  if (rule !== undefined) return { kind: "forbidden", rule }
  const before = question.answers.find((other) => isSamePerson(other, given))
  if (before !== undefined) {
    return isSame(before, given)
      ? { kind: "repeated" }
      : { kind: "forbidden", rule: "already_answered" }
  }
  if (given.answer === "reject" || given.breakGlassReason !== undefined) {
    return { kind: "counted", decision: given.answer }
  }
  const isComplete = countApprovals(question.answers) + 1 >= question.rule.quorum
  return { kind: "counted", decision: isComplete ? "approve" : undefined }
}

/** Whether somebody gave exactly this answer before, whatever became of the approval since. */
export function hasAnswered(answers: readonly GivenAnswer[], given: GivenAnswer): boolean {
  return answers.some((other) => isSame(other, given))
}

/** How many have said yes, those that broke the glass apart. */
export function countApprovals(answers: readonly GivenAnswer[]): number {
  return answers.filter(counts).length
}

export function isGlassBroken(answers: readonly GivenAnswer[]): boolean {
  return answers.some(({ breakGlassReason }) => breakGlassReason !== undefined)
}

/** What somebody behind an approval must still be when it is used. */
export interface Standing {
  readonly actorId: string
  readonly leastRole: number
}

/** Everybody whose standing an approval rests on. */
export function standingsOf({ rule, answers }: Question): readonly Standing[] {
  const glass = answers.find(({ breakGlassReason }) => breakGlassReason !== undefined)
  if (glass !== undefined) return [{ actorId: glass.actorId, leastRole: Role.ADMIN }]
  return answers.filter(counts).flatMap(({ actorId, delegation }) =>
    delegation === undefined
      ? [{ actorId, leastRole: rule.approverRole }]
      : [
          { actorId, leastRole: Role.MEMBER },
          { actorId: delegation.delegatorId, leastRole: rule.approverRole },
        ],
  )
}

/** Whether the answers are a yes by a rule, be it the one under which they were given or another. */
export function isEnough(
  rule: Pick<PinnedRule, "quorum" | "allowsBreakGlass">,
  answers: readonly GivenAnswer[],
): boolean {
  if (isGlassBroken(answers)) return rule.allowsBreakGlass
  return countApprovals(answers) >= rule.quorum
}

/** Which part of the rule forbids an answer, whoever has answered before. */
function forbiddenBy({ requesterId, rule }: Question, given: GivenAnswer): Forbidden | undefined {
  const isGlass = given.breakGlassReason !== undefined
  if (isGlass && !rule.allowsBreakGlass) return "break_glass"
  if (given.delegation !== undefined && !rule.allowsDelegation) return "delegation"
  if (given.role < (isGlass ? Role.ADMIN : rule.approverRole)) return "role"
  if (rule.isDistinctFromRequester && personsOf(given).includes(requesterId)) {
    return "distinct_from_requester"
  }
  return undefined
}

function counts({ answer, breakGlassReason }: GivenAnswer): boolean {
  return answer === "approve" && breakGlassReason === undefined
}

/** (2) An admin who said yes like others may still break the glass: that yes is of another kind. */
function isSamePerson(one: GivenAnswer, other: GivenAnswer): boolean {
  if ((one.breakGlassReason === undefined) !== (other.breakGlassReason === undefined)) return false
  const persons = personsOf(one)
  return personsOf(other).some((person) => persons.includes(person))
}

function isSame(one: GivenAnswer, other: GivenAnswer): boolean {
  return (
    one.actorId === other.actorId &&
    one.answer === other.answer &&
    one.delegation?.delegatorId === other.delegation?.delegatorId &&
    (one.breakGlassReason === undefined) === (other.breakGlassReason === undefined)
  )
}

function personsOf({ actorId, delegation }: GivenAnswer): readonly string[] {
  return delegation === undefined ? [actorId] : [actorId, delegation.delegatorId]
}
