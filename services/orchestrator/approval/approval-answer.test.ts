import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  countApprovals,
  type GivenAnswer,
  hasAnswered,
  isGlassBroken,
  type Question,
  standingsOf,
  weighAnswer,
} from "./approval-answer.ts"
import type { PinnedRule } from "./approval-rule.ts"

const approver = 3
const admin = 4
const rule: PinnedRule = {
  ruleVersion: "rules@1",
  ruleId: "two",
  approverRole: approver,
  isDistinctFromRequester: true,
  quorum: 2,
  allowsDelegation: true,
  allowsBreakGlass: true,
}

function yes(actorId: string, members: Partial<GivenAnswer> = {}): GivenAnswer {
  return {
    actorId,
    role: approver,
    answer: "approve",
    comment: "",
    delegation: undefined,
    breakGlassReason: undefined,
    ...members,
  }
}
const no = (actorId: string): GivenAnswer => yes(actorId, { answer: "reject" })
const forAnother = (actorId: string, delegatorId: string): GivenAnswer =>
  yes(actorId, { delegation: { delegationId: "d", delegatorId } })
const glass = (actorId: string): GivenAnswer =>
  yes(actorId, { role: admin, breakGlassReason: "the site is down" })

function asked(answers: readonly GivenAnswer[] = [], changes: Partial<PinnedRule> = {}): Question {
  return { requesterId: "rita", rule: { ...rule, ...changes }, answers }
}

describe("weighAnswer", () => {
  it.each<[string, Question, GivenAnswer, object]>([
    ["a first yes of two", asked(), yes("ann"), { kind: "counted", decision: undefined }],
    ["a second yes", asked([yes("ann")]), yes("bob"), { kind: "counted", decision: "approve" }],
    ["a no", asked(), no("ann"), { kind: "counted", decision: "reject" }],
    ["a no after a yes", asked([yes("ann")]), no("bob"), { kind: "counted", decision: "reject" }],
    ["the same again", asked([yes("ann")]), yes("ann"), { kind: "repeated" }],
    ["the opposite", asked([yes("ann")]), no("ann"), forbidden("already_answered")],
    ["too low a role", asked(), yes("ann", { role: 2 }), forbidden("role")],
    ["an approver where an admin is asked for", adminOnly(), yes("ann"), forbidden("role")],
    ["the requester", asked(), yes("rita"), forbidden("distinct_from_requester")],
    ["the requester's no", asked(), no("rita"), forbidden("distinct_from_requester")],
    [
      "the requester, where he may",
      asked([], { isDistinctFromRequester: false, quorum: 1 }),
      yes("rita"),
      { kind: "counted", decision: "approve" },
    ],
    [
      "a delegate",
      asked([yes("ann")]),
      forAnother("max", "bob"),
      { kind: "counted", decision: "approve" },
    ],
    [
      "a delegate where none may",
      asked([], { allowsDelegation: false }),
      forAnother("max", "bob"),
      forbidden("delegation"),
    ],
    [
      "the requester as delegate",
      asked(),
      forAnother("rita", "bob"),
      forbidden("distinct_from_requester"),
    ],
    [
      "the requester's delegate",
      asked(),
      forAnother("max", "rita"),
      forbidden("distinct_from_requester"),
    ],
    [
      "a delegate of who has answered",
      asked([yes("bob")]),
      forAnother("max", "bob"),
      forbidden("already_answered"),
    ],
    [
      "who was answered for",
      asked([forAnother("max", "bob")]),
      yes("bob"),
      forbidden("already_answered"),
    ],
    [
      "one delegate for two",
      asked([forAnother("max", "bob")]),
      forAnother("max", "ann"),
      forbidden("already_answered"),
    ],
    [
      "two delegates for one",
      asked([forAnother("max", "bob")]),
      forAnother("mia", "bob"),
      forbidden("already_answered"),
    ],
    [
      "the delegate of a delegate who answered",
      asked([forAnother("max", "bob")]),
      forAnother("mia", "max"),
      forbidden("already_answered"),
    ],
    ["a broken glass", asked(), glass("ada"), { kind: "counted", decision: "approve" }],
    [
      "a broken glass after a yes of the same admin",
      asked([yes("ada", { role: admin })]),
      glass("ada"),
      { kind: "counted", decision: "approve" },
    ],
    [
      "a broken glass where it is not allowed",
      asked([], { allowsBreakGlass: false }),
      glass("ada"),
      forbidden("break_glass"),
    ],
    [
      "a broken glass by less than an admin",
      asked(),
      { ...glass("ann"), role: approver },
      forbidden("role"),
    ],
    ["the requester's broken glass", asked(), glass("rita"), forbidden("distinct_from_requester")],
  ])("%s", (_, question, given, weighed) => {
    expect(weighAnswer(question, given)).toEqual(weighed)
  })

  it("never decides for a yes before as many distinct persons said so, whatever is answered", () => {
    const person = fc.constantFrom("ann", "bob", "max", "mia", "rita")
    const given = fc
      .tuple(person, person, fc.boolean(), fc.integer({ min: 1, max: 4 }), fc.nat(9))
      .map(([actorId, delegatorId, isDelegate, role, dice]): GivenAnswer => {
        const answer = dice === 0 ? "reject" : "approve"
        if (!isDelegate || actorId === delegatorId) return yes(actorId, { role, answer })
        return yes(actorId, { role, answer, delegation: { delegationId: "d", delegatorId } })
      })
    fc.assert(
      fc.property(
        fc.array(given, { maxLength: 12 }),
        fc.integer({ min: 1, max: 4 }),
        fc.boolean(),
        (stream, quorum, isDistinctFromRequester) => {
          const counted: GivenAnswer[] = []
          for (const answer of stream) {
            const question = asked(counted, { quorum, isDistinctFromRequester })
            const weighed = weighAnswer(question, answer)
            if (weighed.kind !== "counted") continue
            counted.push(answer)
            const persons = counted.flatMap((one) => [
              one.actorId,
              ...(one.delegation === undefined ? [] : [one.delegation.delegatorId]),
            ])
            expect(new Set(persons).size).toBe(persons.length)
            if (isDistinctFromRequester) expect(persons).not.toContain("rita")
            expect(counted.every(({ role }) => role >= approver)).toBe(true)
            if (weighed.decision === "approve") expect(countApprovals(counted)).toBe(quorum)
            if (weighed.decision !== undefined) break
          }
        },
      ),
      { seed: 11, numRuns: 3_000 },
    )
  })
})

it("knows its own answers again, whatever became of the approval", () => {
  const answers = [forAnother("max", "bob"), glass("ada")]
  expect(hasAnswered(answers, forAnother("max", "bob"))).toBe(true)
  expect(hasAnswered(answers, forAnother("max", "ann"))).toBe(false)
  expect(hasAnswered(answers, yes("max"))).toBe(false)
  expect(hasAnswered(answers, glass("ada"))).toBe(true)
  expect(hasAnswered(answers, yes("ada", { role: admin }))).toBe(false)
})

it("rests on everybody behind it; a broken glass on the admin alone", () => {
  expect(standingsOf(asked([yes("ann"), forAnother("max", "bob")]))).toEqual([
    { actorId: "ann", leastRole: approver },
    { actorId: "max", leastRole: 2 },
    { actorId: "bob", leastRole: approver },
  ])
  const broken = [yes("ann"), glass("ada")]
  expect(standingsOf(asked(broken))).toEqual([{ actorId: "ada", leastRole: admin }])
  expect([isGlassBroken(broken), isGlassBroken([yes("ann")])]).toEqual([true, false])
  expect(countApprovals(broken)).toBe(1)
})

function forbidden(part: string) {
  return { kind: "forbidden", rule: part }
}

function adminOnly(): Question {
  return asked([], { approverRole: admin })
}
