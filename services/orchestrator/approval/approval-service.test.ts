import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Subject, Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer } from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { metadataOf, RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
const peers = createPeers()
const defaults = { ...peers.script }

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

describe("a high-risk call", () => {
  it("waits, and once approved executes exactly what was shown, exactly once", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([
      { tool: "low.keyed" },
      { tool: "high.unsafe", arguments: { id: { $from: 0, path: "/id" }, amount: 40 } },
    ])
    const waiting = await me.reaches(run.runId, RunState.REQUIRES_ACTION)
    expect(waiting).toMatchObject({ reason: "approval_required", stepIndex: 1 })
    const approval = await me.pendingApproval(run.runId)
    expect(approval).toMatchObject({
      state: ApprovalState.PENDING,
      tool: "test/high.unsafe",
      title: "use high.unsafe",
      arguments: { id: "made-0", amount: 40 },
      requesterId: me.requesterId,
      approverRole: Role.APPROVER,
      distinctFromRequester: true,
      policyVersion: "test@1",
    })
    expect(effectsOf(run.runId)).toHaveLength(1)
    const decided = await me.decide(approval)
    expect(decided).toMatchObject({ state: ApprovalState.APPROVED, deciderId: me.approverId })
    await me.reaches(run.runId, RunState.SUCCEEDED)
    const [, effect, ...more] = effectsOf(run.runId)
    expect(more).toEqual([])
    expect(effect?.arguments).toEqual(approval.arguments)
    const { workspaceId, requester } = me
    const { approvalId } = approval
    const after = await orchestrator.approvals.getApproval({ workspaceId, approvalId }, requester)
    expect(after.approval?.consumeTime).toBeDefined()
    const [, call] = await me.callsOf(run.runId)
    expect(call).toMatchObject({ approvalId, attempts: 1, state: ToolCallState.SUCCEEDED })
  })

  it("does not run when rejected, and ends the run in the same transaction", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }, { tool: "low.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    await me.decide(approval, Answer.REJECT)
    const ended = await me.get(run.runId)
    expect(ended).toMatchObject({ state: RunState.FAILED, reason: "approval_rejected" })
    expect((await me.callsOf(run.runId)).map(({ state }) => state)).toEqual([
      ToolCallState.DENIED,
      ToolCallState.CANCELLED,
    ])
    expect(effectsOf(run.runId)).toEqual([])
  })

  it("asks about a flagged call that changes something, and not about one that reads", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.verdict = ({ subject }) =>
      subject === Subject.TOOL_ARGUMENTS ? Verdict.FLAGGED : Verdict.ALLOWED
    const reading = await me.start([{ tool: "low.read" }])
    const ended = await me.reaches(reading.runId, RunState.SUCCEEDED)
    expect(ended.moderationOutcome).toBe(Verdict.FLAGGED)
    const changing = await me.start([{ tool: "low.keyed" }])
    const approval = await me.pendingApproval(changing.runId)
    expect(approval).toMatchObject({ verdict: Verdict.FLAGGED, matchedRules: ["rule-1"] })
    await me.decide(approval)
    await me.reaches(changing.runId, RunState.SUCCEEDED)
  })
})

describe("Decide", () => {
  it("asks for the role, for somebody else, for the digest and for a pending approval", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    const as = (actorId: string, role: Role) =>
      actingAs(memberSubject(me.workspaceId, actorId, role))
    const { APPROVE, REJECT } = Answer
    const low = await caught(me.decide(approval, APPROVE, as(newId(), Role.MEMBER)))
    expect(reasonOf(low)).toBe("ROLE_TOO_LOW")
    const self = await caught(me.decide(approval, APPROVE, as(me.requesterId, Role.ADMIN)))
    expect(reasonOf(self)).toBe("APPROVER_NOT_ALLOWED")
    expect(metadataOf(self).rule).toBe("distinct_from_requester")
    const changed = { ...approval, digest: "0".repeat(64) }
    expect(reasonOf(await caught(me.decide(changed)))).toBe("APPROVAL_CONTENT_CHANGED")
    expect((await me.pendingApproval(run.runId)).state).toBe(ApprovalState.PENDING)

    const first = await me.decide(approval)
    expect(await me.decide(approval)).toMatchObject({
      state: first?.state,
      deciderId: me.approverId,
    })
    const another = await caught(me.decide(approval, APPROVE, as(newId(), Role.ADMIN)))
    expect(reasonOf(another)).toBe("APPROVAL_NOT_PENDING")
    const opposite = await caught(me.decide(approval, REJECT))
    expect(reasonOf(opposite)).toBe("APPROVAL_NOT_PENDING")
    expect(metadataOf(opposite).state).toBe("approved")
    await me.reaches(run.runId, RunState.SUCCEEDED)
    expect(effectsOf(run.runId)).toHaveLength(1)
  })

  it("lets one of 100 racers answer, and the call run once", { timeout: 30_000 }, async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.unsafe" }])
    const approval = await me.pendingApproval(run.runId)
    const racers = Array.from({ length: 100 }, (_, n) =>
      me.decide(
        approval,
        n % 2 === 0 ? Answer.APPROVE : Answer.REJECT,
        actingAs(memberSubject(me.workspaceId, newId(), Role.APPROVER), { timeoutMs: 20_000 }),
      ),
    )
    const settled = await Promise.allSettled(racers)
    const won = settled.filter((one) => one.status === "fulfilled")
    expect(won).toHaveLength(1)
    for (const one of settled) {
      if (one.status === "rejected") expect(reasonOf(one.reason)).toBe("APPROVAL_NOT_PENDING")
    }
    const isApproved = won[0]?.value?.state === ApprovalState.APPROVED
    await me.reaches(run.runId, isApproved ? RunState.SUCCEEDED : RunState.FAILED)
    expect(effectsOf(run.runId)).toHaveLength(isApproved ? 1 : 0)
  })
})

describe("an approval", () => {
  it("that nobody answers is a no", async () => {
    await using impatient = await startOrchestrator({ peers, approval: { expiryMs: 300 } })
    const me = inWorkspace(impatient)
    const run = await me.start([{ tool: "high.keyed" }, { tool: "low.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    const ended = await me.reaches(run.runId, RunState.EXPIRED)
    expect(ended.reason).toBe("approval_expired")
    expect((await me.callsOf(run.runId)).map(({ state }) => state)).toEqual([
      ToolCallState.EXPIRED,
      ToolCallState.CANCELLED,
    ])
    const late = await caught(me.decide(approval))
    expect(reasonOf(late)).toBe("APPROVAL_NOT_PENDING")
    expect(effectsOf(run.runId)).toEqual([])
  })

  it("given in time but not used in time admits nothing", async () => {
    await using impatient = await startOrchestrator({ peers, approval: { expiryMs: 600 } })
    const me = inWorkspace(impatient)
    let isAway = true
    peers.script.member = () => {
      if (isAway) throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
      return { member: true, role: Role.MEMBER }
    }
    const run = await me.start([{ tool: "high.keyed" }])
    await me.decide(await me.pendingApproval(run.runId))
    await new Promise((resolve) => setTimeout(resolve, 700))
    isAway = false
    const ended = await me.reaches(run.runId, RunState.EXPIRED)
    expect(ended.reason).toBe("approval_expired")
    expect(effectsOf(run.runId)).toEqual([])
  })

  it("is superseded when the policy changed under it: another one asks anew", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed", arguments: { a: 1 } }])
    const first = await me.pendingApproval(run.runId)
    peers.script.policyVersion = "test@2"
    await me.decide(first)
    const second = await until(async () => {
      const found = await me.pendingApproval(run.runId)
      return found.approvalId !== first.approvalId && found
    })
    expect(second).toMatchObject({ policyVersion: "test@2" })
    expect(second.digest).not.toBe(first.digest)
    expect(effectsOf(run.runId)).toEqual([])
    await me.decide(second)
    await me.reaches(run.runId, RunState.SUCCEEDED)
    expect(effectsOf(run.runId)).toHaveLength(1)
  })

  it("does not help a call that moderation blocks by now", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    peers.script.verdict = () => Verdict.BLOCKED
    await me.decide(approval)
    const ended = await me.reaches(run.runId, RunState.FAILED)
    expect(ended.reason).toBe("policy_denied")
    expect(effectsOf(run.runId)).toEqual([])
  })

  it("does not help a requester who is no member any more, or has too low a role", async () => {
    for (const membership of [
      { member: false, role: Role.UNSPECIFIED },
      { member: true, role: Role.VIEWER },
    ]) {
      const me = inWorkspace(orchestrator)
      const run = await me.start([{ tool: "high.keyed" }])
      const approval = await me.pendingApproval(run.runId)
      peers.script.member = (actorId) =>
        actorId === me.requesterId ? membership : defaults.member(actorId)
      await me.decide(approval)
      const ended = await me.reaches(run.runId, RunState.FAILED)
      expect(ended.reason).toBe("membership_revoked")
      expect((await me.callsOf(run.runId))[0]).toMatchObject({
        state: ToolCallState.DENIED,
        reason: "membership_revoked",
      })
      expect(effectsOf(run.runId)).toEqual([])
    }
  })
})

function caught(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
