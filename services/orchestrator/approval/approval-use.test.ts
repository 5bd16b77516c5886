/** What must still hold when a yes is used: everything is asked again, and nothing passes silently. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"
import { inRuledWorkspace, type Named, type RuleInit } from "./approval-harness.ts"

let orchestrator: Orchestrator
const peers = createPeers()
peers.script.member = () => ({ member: true, role: Role.ADMIN })
const defaults = { ...peers.script }

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)
const nobody = { member: false, role: Role.UNSPECIFIED }

async function waiting(rules: readonly RuleInit[] = []) {
  const me = inRuledWorkspace(orchestrator)
  if (rules.length > 0) await me.useRules(rules)
  const { runId } = await me.start([{ tool: "high.unsafe", arguments: { amount: 40 } }])
  const approval = await me.pendingApproval(runId)
  return { ...me, runId, approval }
}

/** Expects that the yes was not used, and that somebody is asked anew; answers that. */
async function askedAnew(me: Awaited<ReturnType<typeof waiting>>) {
  const second = await me.askedAnew(me.runId, me.approval)
  const first = await me.read(me.approval.approvalId)
  expect(first.state).toBe(ApprovalState.SUPERSEDED)
  expect(first.consumeTime).toBeUndefined()
  expect(second.digest).not.toBe(first.digest)
  expect(second.answers).toEqual([])
  expect(effectsOf(me.runId)).toEqual([])
  expect(await me.get(me.runId)).toMatchObject({
    state: RunState.REQUIRES_ACTION,
    reason: "approval_required",
  })
  return second
}

describe("a yes is asked for anew", () => {
  it("when other rules are in force, even such as say the same", async () => {
    const rules = [{ ruleId: "any" }]
    const me = await waiting(rules)
    const ruleVersion = await me.useRules(rules)
    await me.say(me.approval, me.person(Role.APPROVER))
    const second = await askedAnew(me)
    expect(second.ruleVersion).toBe(ruleVersion)
    await me.say(second, me.person(Role.APPROVER))
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
  })

  it("when the rules want more persons by now, and then it needs them", async () => {
    const me = await waiting()
    await me.useRules([{ ruleId: "two", quorum: 2 }])
    const ann = me.person(Role.APPROVER)
    await me.say(me.approval, ann)
    const second = await askedAnew(me)
    expect(second.quorum).toBe(2)
    await me.say(second, ann)
    expect((await me.read(second.approvalId)).state).toBe(ApprovalState.PENDING)
    await me.say(second, me.person(Role.APPROVER))
    await me.reaches(me.runId, RunState.SUCCEEDED)
  })

  it("when moderation decides by another policy, or otherwise", async () => {
    for (const change of [
      () => {
        peers.script.policyVersion = "test@2"
      },
      () => {
        peers.script.verdict = () => Verdict.FLAGGED
      },
    ]) {
      const me = await waiting()
      change()
      await me.say(me.approval, me.person(Role.APPROVER))
      await askedAnew(me)
      Object.assign(peers.script, defaults)
    }
  })

  it.each([
    ["is no member any more", nobody],
    ["has too low a role by now", { member: true, role: Role.MEMBER }],
  ])("when one of those who said yes %s", async (_, standing) => {
    const me = await waiting([{ ruleId: "two", quorum: 2 }])
    const [ann, bob] = [me.person(Role.APPROVER), me.person(Role.APPROVER)]
    await me.say(me.approval, ann)
    peers.script.member = (actorId) =>
      actorId === ann.actorId ? standing : defaults.member(actorId)
    await me.say(me.approval, bob)
    const second = await askedAnew(me)
    for (const by of [bob, me.person(Role.APPROVER)]) await me.say(second, by)
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
  })

  it("when a delegate or its delegator lost what it was given by, or the delegation ended", async () => {
    for (const lose of ["delegate", "delegator", "delegation"] as const) {
      const me = await waiting([{ ruleId: "two", quorum: 2, delegationAllowed: true }])
      const [ann, max] = [me.person(Role.APPROVER), me.person(Role.MEMBER)]
      const delegation = await me.delegate(ann, max)
      await me.sayFor(me.approval, max, delegation)
      const lost = { delegate: max.actorId, delegator: ann.actorId, delegation: "" }[lose]
      peers.script.member = (actorId) => (actorId === lost ? nobody : defaults.member(actorId))
      if (lose === "delegation") await me.revoke(delegation)
      await me.say(me.approval, me.person(Role.APPROVER))
      await askedAnew(me)
      Object.assign(peers.script, defaults)
    }
  })

  it("when the admin who broke the glass is none any more", async () => {
    const me = await waiting([{ ruleId: "two", quorum: 2, breakGlassAllowed: true }])
    peers.script.member = (actorId) =>
      actorId === me.admin.actorId
        ? { member: true, role: Role.APPROVER }
        : defaults.member(actorId)
    await me.breakGlass(me.approval, me.admin)
    await askedAnew(me)
  })
})

describe("a yes admits nothing", () => {
  it("while the gateway cannot be asked about those behind it, and does once it can", async () => {
    const me = await waiting()
    const ann = me.person(Role.APPROVER)
    let asked = 0
    peers.script.member = (actorId) => {
      if (actorId !== ann.actorId) return defaults.member(actorId)
      asked += 1
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
    }
    await me.say(me.approval, ann)
    await until(() => asked >= 2)
    expect(effectsOf(me.runId)).toEqual([])
    expect((await me.read(me.approval.approvalId)).state).toBe(ApprovalState.APPROVED)
    Object.assign(peers.script, defaults)
    await me.reaches(me.runId, RunState.SUCCEEDED)
    expect(effectsOf(me.runId)).toHaveLength(1)
  })

  it("for a requester who is no member any more: the call is denied, and nobody is asked", async () => {
    const me = await waiting()
    peers.script.member = (actorId) =>
      actorId === me.requesterId ? nobody : defaults.member(actorId)
    await me.say(me.approval, me.person(Role.APPROVER))
    const ended = await me.reaches(me.runId, RunState.FAILED)
    expect(ended.reason).toBe("membership_revoked")
    expect((await me.read(me.approval.approvalId)).state).toBe(ApprovalState.CANCELLED)
    expect((await me.callsOf(me.runId))[0]).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "membership_revoked",
    })
    expect(effectsOf(me.runId)).toEqual([])
  })

  it("once the run is cancelled", async () => {
    const me = await waiting()
    peers.script.member = () => {
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
    }
    await me.say(me.approval, me.person(Role.APPROVER))
    await me.cancel(me.runId)
    const after = await me.read(me.approval.approvalId)
    expect(after).toMatchObject({ state: ApprovalState.CANCELLED, approveCount: 1 })
    Object.assign(peers.script, defaults)
    expect((await me.get(me.runId)).state).toBe(RunState.CANCELLED)
    expect(effectsOf(me.runId)).toEqual([])
  })

  it("after the expiry of its rule", async () => {
    const me = await waiting([{ ruleId: "brief", expiry: { seconds: 1n } }])
    const ann = me.person(Role.APPROVER)
    peers.script.member = () => {
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
    }
    await me.say(me.approval, ann)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    Object.assign(peers.script, defaults)
    const ended = await me.reaches(me.runId, RunState.EXPIRED)
    expect(ended.reason).toBe("approval_expired")
    expect(effectsOf(me.runId)).toEqual([])
  })
})

describe("questions", () => {
  it("are limited in each workspace, and make room when they end", {
    timeout: 60_000,
  }, async () => {
    await using strict = await startOrchestrator({ peers, approval: { maxOpen: 5 } })
    const me = inRuledWorkspace(strict)
    await Promise.all(Array.from({ length: 40 }, () => me.start([{ tool: "high.keyed" }])))
    const { workspaceId, requester } = me
    const states = [RunState.REQUIRES_ACTION, RunState.FAILED]
    const ended = await until(
      async () => {
        const { runs } = await strict.runs.listRuns({ workspaceId, states }, requester)
        return runs.length === 40 && runs
      },
      { timeoutMs: 30_000 },
    )
    const waitingRuns = ended.filter(({ state }) => state === RunState.REQUIRES_ACTION)
    const denied = ended.filter(({ state }) => state === RunState.FAILED)
    expect(waitingRuns).toHaveLength(5)
    expect(new Set(denied.map(({ reason }) => reason))).toEqual(new Set(["approval_limit_reached"]))
    const [call] = await me.callsOf(denied[0]?.runId ?? "")
    expect(call).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "approval_limit_reached",
      approvalId: "",
    })
    const other = inRuledWorkspace(strict)
    await other.pendingApproval((await other.start([{ tool: "high.keyed" }])).runId)
    const first = waitingRuns[0]?.runId ?? ""
    await me.say(await me.pendingApproval(first), me.person(Role.APPROVER))
    await me.reaches(first, RunState.SUCCEEDED)
    const { runId } = await me.start([{ tool: "high.keyed" }])
    await me.pendingApproval(runId)
    await me.cancel(runId)
    await me.pendingApproval((await me.start([{ tool: "high.keyed" }])).runId)
  })

  it("are listed after a restart, all of them, and answered then", {
    timeout: 60_000,
  }, async () => {
    await using database = await testDatabase("orchestrator")
    const first = await startOrchestrator({ peers, database })
    const me = inRuledWorkspace(first)
    await me.useRules([{ ruleId: "two", quorum: 2 }])
    const runs = await Promise.all(
      Array.from({ length: 100 }, () => me.start([{ tool: "high.keyed" }])),
    )
    const asked: Named[] = []
    for (const { runId } of runs) asked.push(await me.pendingApproval(runId))
    const ann = me.person(Role.APPROVER)
    await Promise.all(asked.map((approval) => me.say(approval, ann)))
    await first[Symbol.asyncDispose]()
    await using second = await startOrchestrator({ peers, database })
    const there = inRuledWorkspace(second, me.workspaceId)
    const { workspaceId, admin } = there
    const states = [ApprovalState.PENDING]
    const listed = await second.approvals.listApprovals(
      { workspaceId, states, pageSize: 200 },
      admin.options,
    )
    const ids = (approvals: readonly { readonly approvalId: string }[]) =>
      approvals.map(({ approvalId }) => approvalId).toSorted()
    expect(ids(listed.approvals)).toEqual(ids(asked))
    expect(listed.approvals.every(({ approveCount }) => approveCount === 1)).toBe(true)
    const bob = there.person(Role.APPROVER)
    await Promise.all(asked.map((approval) => there.say(approval, bob)))
    for (const { runId } of runs) {
      await there.reaches(runId, RunState.SUCCEEDED, 30_000)
      expect(effectsOf(runId)).toHaveLength(1)
    }
  })
})
