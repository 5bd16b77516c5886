/** Who may answer, how often, and what it leads to: through the service, by rules of the workspace. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer } from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { createPeers, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"
import { caught, inRuledWorkspace, type RuleInit } from "./approval-harness.ts"

let orchestrator: Orchestrator
const peers = createPeers()
// Everybody is what they were when they answered.
peers.script.member = () => ({ member: true, role: Role.ADMIN })
const defaults = { ...peers.script }
const { APPROVE, REJECT } = Answer

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

async function waiting(rules: readonly RuleInit[]) {
  const me = inRuledWorkspace(orchestrator)
  const ruleVersion = rules.length === 0 ? "default@1" : await me.useRules(rules)
  const { runId } = await me.start([{ tool: "high.keyed", arguments: { amount: 40 } }])
  const approval = await me.pendingApproval(runId)
  return { ...me, ruleVersion, runId, approval }
}

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await caught(work)
  const { rule = "", state = "" } = error === undefined ? {} : metadataOf(error)
  return [reasonOf(error) ?? "none", rule, state].filter((part) => part !== "").join(" ")
}

describe("a rule of the workspace", () => {
  it("is pinned in the approval, and shown", async () => {
    const me = await waiting([
      { ruleId: "flagged", scope: { verdicts: [2] } },
      {
        ruleId: "keyed",
        scope: { tools: ["test/*.keyed"], effects: [2] },
        approverRole: Role.ADMIN,
        quorum: 3,
        expiry: { seconds: 60n },
        delegationAllowed: true,
        breakGlassAllowed: true,
      },
    ])
    expect(me.approval).toMatchObject({
      ruleVersion: me.ruleVersion,
      ruleId: "keyed",
      approverRole: Role.ADMIN,
      distinctFromRequester: true,
      quorum: 3,
      approveCount: 0,
      delegationAllowed: true,
      breakGlassAllowed: true,
      breakGlass: false,
    })
    const { expireTime, createTime } = me.approval
    // The two times are of two clocks, and either second may have begun between them.
    expect(Math.abs(Number(expireTime?.seconds) - Number(createTime?.seconds) - 60)).toBeLessThan(2)
    expect(JSON.parse(me.approval.preview)).toMatchObject({
      tool: "test/high.keyed",
      arguments: { amount: 40 },
      rule: { version: me.ruleVersion, id: "keyed", quorum: 3, approver_role: "admin" },
    })
    expect(await refusal(me.say(me.approval, me.person(Role.APPROVER)))).toBe(
      "APPROVER_NOT_ALLOWED role",
    )
  })

  it("asks for as many persons as it says, each once, and keeps what they said", async () => {
    const me = await waiting([{ ruleId: "three", quorum: 3 }])
    const [ann, bob, cid] = [Role.APPROVER, Role.APPROVER, Role.ADMIN].map((role) =>
      me.person(role),
    )
    if (ann === undefined || bob === undefined || cid === undefined) throw new Error("nobody")
    const first = await me.say(me.approval, ann, APPROVE, "fine")
    expect(first).toMatchObject({ reason: "", approval: { approveCount: 1 } })
    const again = await me.say(me.approval, ann, APPROVE, "fine, really")
    expect(again).toMatchObject({ reason: "already_answered", approval: { approveCount: 1 } })
    expect(await refusal(me.say(me.approval, ann, REJECT))).toBe(
      "APPROVER_NOT_ALLOWED already_answered",
    )
    await me.say(me.approval, bob)
    const two = await me.read(me.approval.approvalId)
    expect(two).toMatchObject({ state: ApprovalState.PENDING, approveCount: 2, deciderId: "" })
    expect(effectsOf(me.runId)).toEqual([])
    const last = await me.say(me.approval, cid)
    expect(last.approval).toMatchObject({
      state: ApprovalState.APPROVED,
      approveCount: 3,
      deciderId: cid.actorId,
    })
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
    const used = await me.read(me.approval.approvalId)
    expect(used.answers).toMatchObject([
      { actorId: ann.actorId, role: Role.APPROVER, approved: true, comment: "fine" },
      { actorId: bob.actorId, role: Role.APPROVER, approved: true },
      { actorId: cid.actorId, role: Role.ADMIN, approved: true },
    ])
    expect(used.consumeTime).toBeDefined()
    const told = (await me.history(me.runId)).flatMap(({ kind }) =>
      kind.case === "approvalAnswered" ? [kind.value] : [],
    )
    expect(told).toMatchObject([
      { actorId: ann.actorId, approved: true, approveCount: 1, quorum: 3, breakGlass: false },
      { actorId: bob.actorId, approveCount: 2 },
      { actorId: cid.actorId, approveCount: 3 },
    ])
  })

  it("takes one no for a no, whoever said yes before", async () => {
    const me = await waiting([{ ruleId: "two", quorum: 2 }])
    const [ann, bob] = [me.person(Role.APPROVER), me.person(Role.APPROVER)]
    await me.say(me.approval, ann)
    const rejected = await me.say(me.approval, bob, REJECT, "too much")
    expect(rejected.approval).toMatchObject({
      state: ApprovalState.REJECTED,
      deciderId: bob.actorId,
      comment: "too much",
    })
    expect(await me.get(me.runId)).toMatchObject({
      state: RunState.FAILED,
      reason: "approval_rejected",
    })
    const late = me.person(Role.APPROVER)
    expect(await refusal(me.say(me.approval, late))).toBe("APPROVAL_NOT_PENDING rejected")
    expect(await me.say(me.approval, bob, REJECT)).toMatchObject({ reason: "already_answered" })
    expect(await me.say(me.approval, ann)).toMatchObject({ reason: "already_answered" })
    expect(effectsOf(me.runId)).toEqual([])
  })

  it("may let the requester answer, and does not unless it says so", async () => {
    const strict = await waiting([])
    const own = strict.person(Role.ADMIN, strict.requesterId)
    for (const answer of [APPROVE, REJECT]) {
      expect(await refusal(strict.say(strict.approval, own, answer))).toBe(
        "APPROVER_NOT_ALLOWED distinct_from_requester",
      )
    }
    const lenient = await waiting([{ ruleId: "own", requesterMayAnswer: true }])
    await lenient.say(lenient.approval, lenient.person(Role.APPROVER, lenient.requesterId))
    await lenient.reaches(lenient.runId, RunState.SUCCEEDED)
  })
})

describe("a delegate", () => {
  const rules = [{ ruleId: "two", quorum: 2, delegationAllowed: true }]

  it("answers for an approver, who is one person with it", async () => {
    const me = await waiting(rules)
    const [ann, bob] = [me.person(Role.APPROVER), me.person(Role.APPROVER)]
    const [max, mia] = [me.person(Role.MEMBER), me.person(Role.MEMBER)]
    const byMax = await me.delegate(ann, max)
    const byMia = await me.delegate(ann, mia)
    const bobToMax = await me.delegate(bob, max)
    expect((await me.sayFor(me.approval, max, byMax)).approval?.approveCount).toBe(1)
    expect(await me.sayFor(me.approval, max, byMax)).toMatchObject({ reason: "already_answered" })
    const already = "APPROVER_NOT_ALLOWED already_answered"
    expect(await refusal(me.sayFor(me.approval, mia, byMia))).toBe(already)
    expect(await refusal(me.sayFor(me.approval, max, bobToMax))).toBe(already)
    expect(await refusal(me.say(me.approval, ann))).toBe(already)
    await me.say(me.approval, bob)
    await me.reaches(me.runId, RunState.SUCCEEDED)
    const { answers } = await me.read(me.approval.approvalId)
    expect(answers[0]).toMatchObject({
      actorId: max.actorId,
      delegatorId: ann.actorId,
      delegationId: byMax,
      role: Role.ADMIN,
    })
    const [told] = (await me.history(me.runId)).flatMap(({ kind }) =>
      kind.case === "approvalAnswered" ? [kind.value] : [],
    )
    expect(told).toMatchObject({ actorId: max.actorId, delegatorId: ann.actorId })
  })

  it("answers by its own delegation that is in force, where the rule allows it, and by no other", async () => {
    const me = await waiting(rules)
    const [ann, max] = [me.person(Role.APPROVER), me.person(Role.MEMBER)]
    const refused = "APPROVER_NOT_ALLOWED delegation"
    const others = await me.delegate(ann, me.person(Role.MEMBER))
    expect(await refusal(me.sayFor(me.approval, max, others))).toBe(refused)
    const revoked = await me.delegate(ann, max)
    await me.revoke(revoked)
    expect(await refusal(me.sayFor(me.approval, max, revoked))).toBe(refused)
    const brief = await me.delegate(ann, max, 1)
    await until(async () => (await refusal(me.sayFor(me.approval, max, brief))) === refused, {
      timeoutMs: 3_000,
    })
    expect(await refusal(me.sayFor(me.approval, max, newId()))).toBe("NOT_FOUND")
    const valid = await me.delegate(ann, max)
    const foreign = await waiting(rules)
    expect(await refusal(foreign.sayFor(foreign.approval, max, valid))).toBe("WORKSPACE_MISMATCH")
    const strict = await waiting([{ ruleId: "strict", quorum: 2 }])
    const [eve, tom] = [strict.person(Role.APPROVER), strict.person(Role.MEMBER)]
    const unused = await strict.delegate(eve, tom)
    expect(await refusal(strict.sayFor(strict.approval, tom, unused))).toBe(refused)
    expect(await refusal(strict.say(strict.approval, tom))).toBe("ROLE_TOO_LOW")
  })

  it("passes on no more than the delegator is worth at that moment", async () => {
    const me = await waiting([
      { ruleId: "admins", approverRole: Role.ADMIN, delegationAllowed: true },
    ])
    const [ada, max] = [me.person(Role.ADMIN), me.person(Role.MEMBER)]
    const delegation = await me.delegate(ada, max)
    peers.script.member = () => ({ member: true, role: Role.APPROVER })
    expect(await refusal(me.sayFor(me.approval, max, delegation))).toBe("APPROVER_NOT_ALLOWED role")
    peers.script.member = () => ({ member: false, role: Role.UNSPECIFIED })
    expect(await refusal(me.sayFor(me.approval, max, delegation))).toBe(
      "APPROVER_NOT_ALLOWED delegation",
    )
    Object.assign(peers.script, defaults)
    await me.sayFor(me.approval, max, delegation)
    await me.reaches(me.runId, RunState.SUCCEEDED)
  })

  it("never is the requester, nor for the requester", async () => {
    const me = await waiting(rules)
    const own = me.person(Role.APPROVER, me.requesterId)
    const [ann, max] = [me.person(Role.APPROVER), me.person(Role.MEMBER)]
    const toOwn = await me.delegate(ann, own)
    const fromOwn = await me.delegate(own, max)
    const refused = "APPROVER_NOT_ALLOWED distinct_from_requester"
    expect(await refusal(me.sayFor(me.approval, own, toOwn))).toBe(refused)
    expect(await refusal(me.sayFor(me.approval, max, fromOwn))).toBe(refused)
    expect((await me.read(me.approval.approvalId)).answers).toEqual([])
  })
})

describe("breaking the glass", () => {
  const rules = [{ ruleId: "three", quorum: 3, breakGlassAllowed: true }]

  it("stands for those who are missing, with a reason that is kept and told", async () => {
    const me = await waiting(rules)
    const ada = me.person(Role.ADMIN)
    await me.say(me.approval, me.person(Role.APPROVER))
    await me.say(me.approval, ada)
    const broken = await me.breakGlass(me.approval, ada, "site down, alone on call")
    expect(broken.approval).toMatchObject({
      state: ApprovalState.APPROVED,
      breakGlass: true,
      approveCount: 2,
      deciderId: ada.actorId,
    })
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
    const { answers } = await me.read(me.approval.approvalId)
    expect(answers[2]).toMatchObject({
      actorId: ada.actorId,
      approved: true,
      role: Role.ADMIN,
      breakGlassReason: "site down, alone on call",
    })
    const history = await me.history(me.runId)
    const answered = history.flatMap(({ kind }) =>
      kind.case === "approvalAnswered" ? [kind.value] : [],
    )
    expect(answered.map(({ breakGlass }) => breakGlass)).toEqual([false, false, true])
    const states = history.flatMap(({ kind }) =>
      kind.case === "approvalStateChanged" ? [kind.value] : [],
    )
    expect(states.map(({ breakGlass }) => breakGlass)).toEqual([false, true])
    const events = await until(() => {
      const found = peers.events.flatMap(({ runId, payload }) =>
        runId === me.runId && payload.case === "approvalChanged" ? [payload.value] : [],
      )
      return found.length === 2 && found
    })
    expect(events.map(({ state, breakGlass }) => [state, breakGlass])).toEqual([
      ["pending", false],
      ["approved", true],
    ])
    expect(await me.breakGlass(me.approval, ada)).toMatchObject({ reason: "already_answered" })
  })

  it("is for admins, where the rule allows it, with a reason, and not for the requester", async () => {
    const me = await waiting(rules)
    const asked = me.breakGlass(me.approval, me.person(Role.APPROVER))
    expect(await refusal(asked)).toBe("ROLE_TOO_LOW")
    expect(await refusal(me.breakGlass(me.approval, me.admin, "because"))).toBe("INVALID_REQUEST")
    expect(await refusal(me.breakGlass(me.approval, me.admin, ""))).toBe("INVALID_REQUEST")
    const own = me.person(Role.ADMIN, me.requesterId)
    expect(await refusal(me.breakGlass(me.approval, own))).toBe(
      "APPROVER_NOT_ALLOWED distinct_from_requester",
    )
    const changed = { ...me.approval, digest: "0".repeat(64) }
    expect(await refusal(me.breakGlass(changed, me.admin))).toBe("APPROVAL_CONTENT_CHANGED")
    const strict = await waiting([{ ruleId: "strict", quorum: 2 }])
    expect(await refusal(strict.breakGlass(strict.approval, strict.admin))).toBe(
      "APPROVER_NOT_ALLOWED break_glass",
    )
    expect((await me.read(me.approval.approvalId)).answers).toEqual([])
  })

  it("does not help a call that moderation blocks by now", async () => {
    const me = await waiting(rules)
    peers.script.verdict = () => 3
    await me.breakGlass(me.approval, me.admin)
    const ended = await me.reaches(me.runId, RunState.FAILED)
    expect(ended.reason).toBe("policy_denied")
    expect(effectsOf(me.runId)).toEqual([])
    expect((await me.read(me.approval.approvalId)).state).toBe(ApprovalState.SUPERSEDED)
  })
})

describe("an answer", () => {
  it("that comes before anybody waits for it is kept", async () => {
    const first = await startOrchestrator({ peers, database: orchestrator.database })
    const me = inRuledWorkspace(first)
    const { runId } = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(runId)
    // Nobody may carry the run on: not even be asked whether its requester still may.
    peers.script.member = () => {
      throw new Error("away")
    }
    await me.say(approval, me.person(Role.APPROVER))
    await first[Symbol.asyncDispose]()
    expect(effectsOf(runId)).toEqual([])
    Object.assign(peers.script, defaults)
    const there = inRuledWorkspace(orchestrator, me.workspaceId)
    await there.reaches(runId, RunState.SUCCEEDED)
    expect(effectsOf(runId)).toHaveLength(1)
  })

  it("is answered once, however often its request is sent", async () => {
    const me = await waiting([{ ruleId: "two", quorum: 2 }])
    const { workspaceId } = me
    const { approvalId, digest } = me.approval
    const request = { workspaceId, requestId: newId(), approvalId, digest, answer: APPROVE }
    const by = actingAs(memberSubject(workspaceId, newId(), Role.APPROVER), { timeoutMs: 20_000 })
    const responses = await Promise.all(
      Array.from({ length: 16 }, () => orchestrator.approvals.decide(request, by)),
    )
    for (const response of responses) {
      expect(response).toMatchObject({ reason: "", approval: { approveCount: 1 } })
    }
    const other = { ...request, answer: REJECT }
    expect(await refusal(orchestrator.approvals.decide(other, by))).toBe("REQUEST_ID_CONFLICT")
    expect((await me.read(approvalId)).answers).toHaveLength(1)
  })

  it("of 100 who answer at once completes the quorum once", { timeout: 60_000 }, async () => {
    const me = await waiting([{ ruleId: "three", quorum: 3 }])
    const racers = Array.from({ length: 100 }, () => me.say(me.approval, me.person(Role.APPROVER)))
    const settled = await Promise.allSettled(racers)
    const heard = settled.filter(({ status }) => status === "fulfilled")
    expect(heard).toHaveLength(3)
    for (const one of settled) {
      if (one.status === "rejected") expect(reasonOf(one.reason)).toBe("APPROVAL_NOT_PENDING")
    }
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
    expect((await me.read(me.approval.approvalId)).answers).toHaveLength(3)
  })
})
