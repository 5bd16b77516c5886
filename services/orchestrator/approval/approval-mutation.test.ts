/**
 * A call that was approved, changed behind everybody's back before it is used: more than 200 ways,
 * straight in the database, as no role of the service may do it. Nothing executes that was not
 * approved.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Connection, connect } from "../../../mesh/database.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"
import { caught, inRuledWorkspace } from "./approval-harness.ts"
import { mutantArguments, rich } from "./approval-mutants.ts"

let orchestrator: Orchestrator
let owner: Connection
let app: Connection
let database: Awaited<ReturnType<typeof testDatabase>>
const peers = createPeers()
peers.script.member = () => ({ member: true, role: Role.ADMIN })
// What step 1 refers to, so that its arguments are stored and not planned.
peers.script.execute = () => ({ account: rich.account ?? "" })

beforeAll(async () => {
  database = await testDatabase("orchestrator")
  orchestrator = await startOrchestrator({ peers, database })
  owner = await connect(database.ownerUrl)
  app = await connect(database.appUrl)
  for (const table of ["runs", "tool_calls", "approvals", "run_claims"]) {
    await owner.query(`alter table ${table} no force row level security`)
  }
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
  await owner[Symbol.asyncDispose]()
  await app[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

const { account: _, ...literals } = rich
const steps = [
  { tool: "low.keyed" },
  { tool: "high.keyed", arguments: { ...literals, account: { $from: 0, path: "/account" } } },
]

async function waiting(me = inRuledWorkspace(orchestrator)) {
  const { runId } = await me.start(steps)
  const approval = await me.pendingApproval(runId)
  expect(approval.arguments).toEqual(rich)
  return { ...me, runId, approval }
}

type Waiting = Awaited<ReturnType<typeof waiting>>

const effectsOf = (runId: string) =>
  peers.effects.filter((effect) => effect.runId === runId && effect.stepIndex === 1)

/** Waits until it is plain what the run makes of the yes: another question, or an end. */
async function settled(me: Waiting) {
  const { workspaceId, runId, requester } = me
  return until(async () => {
    const { approvals } = await orchestrator.approvals.listApprovals(
      { workspaceId, runId },
      requester,
    )
    const run = await me.get(runId)
    const isOver = run.endTime !== undefined || approvals.length > 1
    return isOver && { run, approvals }
  })
}

async function expectUnused(me: Waiting, name: string): Promise<void> {
  const { approvals } = await settled(me)
  expect([name, effectsOf(me.runId).length]).toEqual([name, 0])
  const first = approvals.find(({ approvalId }) => approvalId === me.approval.approvalId)
  expect([name, first?.consumeTime]).toEqual([name, undefined])
}

function mutateArguments({ runId }: Waiting, args: JsonObject) {
  return owner.query(
    "update tool_calls set arguments = $2::text where run_id = $1::uuid and step_index = 1",
    [runId, JSON.stringify(args)],
  )
}

describe("arguments", () => {
  const mutants = mutantArguments(rich)
  const size = 20

  it("are more than 200 others", () => {
    expect(mutants.length).toBeGreaterThanOrEqual(200)
  })

  for (let first = 0; first < mutants.length; first += size) {
    it(`that were changed do not execute: ${first} and on`, { timeout: 60_000 }, async () => {
      const me = inRuledWorkspace(orchestrator)
      const ann = me.person(Role.APPROVER)
      const tried = mutants.slice(first, first + size)
      const waits = await Promise.all(tried.map(() => waiting(me)))
      for (const [index, mutant] of tried.entries()) {
        await mutateArguments(waits[index] as Waiting, mutant.arguments)
      }
      await Promise.all(waits.map((one) => one.say(one.approval, ann)))
      await Promise.all(waits.map((one, index) => expectUnused(one, tried[index]?.name ?? "")))
    })
  }

  it("of the same value in another order execute, once", async () => {
    const one = await waiting()
    const reversed = Object.fromEntries(Object.entries(rich).reverse())
    expect(JSON.stringify(reversed)).not.toBe(JSON.stringify(rich))
    await mutateArguments(one, reversed)
    await one.say(one.approval, one.person(Role.APPROVER))
    await one.reaches(one.runId, RunState.SUCCEEDED)
    expect(effectsOf(one.runId)).toHaveLength(1)
    expect(effectsOf(one.runId)[0]?.arguments).toEqual(rich)
  })
})

describe("everything else that was shown", () => {
  it.each<[string, string]>([
    ["the tool", "tool = 'test/low.keyed'"],
    ["its provider", "tool = 'evil/high.keyed'"],
    ["a twin of the tool", "tool = 'test/high.kеyed'"],
    ["its version", "tool_version = '1.0.1'"],
    ["its definition", "definition_digest = repeat('a', 64)"],
    ["its effect", "effect = 'unsafe'"],
    ["the title", "title = 'harmless'"],
  ])("%s: changed in the call, it does not execute", async (name, change) => {
    const one = await waiting()
    await expect(asApp(one, `update tool_calls set ${change} where run_id = $1`)).rejects.toThrow(
      "permission denied",
    )
    await owner.query(`update tool_calls set ${change} where run_id = $1 and step_index = 1`, [
      one.runId,
    ])
    await one.say(one.approval, one.person(Role.APPROVER))
    await expectUnused(one, name)
  })

  it("the requester: changed in the run, it does not execute", async () => {
    const one = await waiting()
    await owner.query("update runs set requester_id = $2 where run_id = $1", [
      one.runId,
      one.person(Role.MEMBER).actorId,
    ])
    await one.say(one.approval, one.person(Role.APPROVER))
    await expectUnused(one, "the requester")
  })

  it.each<[string, string]>([
    ["the expiry", "expire_time = expire_time + interval '1 millisecond'"],
    ["an hour more", "expire_time = expire_time + interval '1 hour'"],
    ["the rule's version", "rule_version = 'rules@2'"],
    ["the rule", "rule_id = 'other'"],
    ["the quorum", "quorum = 1"],
    ["the role", "approver_role = 3"],
    ["four eyes", "distinct_from_requester = false"],
    ["delegation", "allows_delegation = true"],
    ["break-glass", "allows_break_glass = true"],
  ])("%s: changed in the approval, it does not execute", async (name, change) => {
    const me = inRuledWorkspace(orchestrator)
    await me.useRules([{ ruleId: "two", quorum: 2, approverRole: Role.ADMIN }])
    const one = await waiting(me)
    await expect(asApp(one, `update approvals set ${change} where run_id = $1`)).rejects.toThrow(
      "permission denied",
    )
    await owner.query(`update approvals set ${change} where run_id = $1`, [one.runId])
    for (const by of [one.person(Role.ADMIN), one.person(Role.ADMIN)]) {
      await caught(one.say(one.approval, by))
    }
    await expectUnused(one, name)
  })
})

describe("a yes of another call", () => {
  it("of another run or step is not this call's", async () => {
    const me = inRuledWorkspace(orchestrator)
    const [one, other] = [await waiting(me), await waiting(me)]
    // The call is made to point at the other's approval, which is given.
    await owner.query("update tool_calls set approval_id = $2 where run_id = $1", [
      one.runId,
      other.approval.approvalId,
    ])
    await other.say(other.approval, me.person(Role.APPROVER))
    await other.reaches(other.runId, RunState.SUCCEEDED)
    await one.say(one.approval, me.person(Role.APPROVER)).catch(() => {})
    await expect(until(() => effectsOf(one.runId).length > 0, { timeoutMs: 500 })).rejects.toThrow()
    expect(effectsOf(other.runId)).toHaveLength(1)
    for (const change of ["run_id = $2", "step_index = 0"]) {
      const tried = owner.query(
        `update approvals set ${change} where approval_id = $1 and $2::uuid is not null`,
        [other.approval.approvalId, one.runId],
      )
      await expect(tried).rejects.toThrow("tool_calls_approval_fkey")
    }
  })

  it("is not found in another workspace, and its digest answers nothing there", async () => {
    const [one, other] = [await waiting(), await waiting()]
    const { approvalId } = one.approval
    const there = other.say(one.approval, other.person(Role.APPROVER))
    expect(reasonOf(await caught(there))).toBe("NOT_FOUND")
    const mixed = { ...other.approval, digest: one.approval.digest }
    const error = await caught(other.say(mixed, other.person(Role.APPROVER)))
    expect(reasonOf(error)).toBe("APPROVAL_CONTENT_CHANGED")
    expect((await one.read(approvalId)).answers).toEqual([])
  })

  it("that was given before a no, or for a call that has run, is none", async () => {
    const me = inRuledWorkspace(orchestrator)
    const one = await waiting(me)
    await one.say(one.approval, me.person(Role.APPROVER))
    await one.reaches(one.runId, RunState.SUCCEEDED)
    const again = await caught(one.say(one.approval, me.person(Role.APPROVER)))
    expect(reasonOf(again)).toBe("APPROVAL_NOT_PENDING")
    expect(effectsOf(one.runId)).toHaveLength(1)
  })
})

describe("a yes that nobody gave", () => {
  it.each([
    ["at all", 0],
    ["but one of two", 1],
  ])("%s does not count, even where the database was made to take it", async (_, yeses) => {
    const me = inRuledWorkspace(orchestrator)
    await me.useRules([{ ruleId: "two", quorum: 2 }])
    const one = await waiting(me)
    if (yeses === 1) await one.say(one.approval, one.person(Role.APPROVER))
    await owner.query("alter table approvals drop constraint if exists approvals_enough_check")
    for (const forged of [
      "update approvals set state = 'approved' where run_id = $1",
      "update tool_calls set state = 'ready' where run_id = $1 and step_index = 1",
      "update run_claims set due_time = now() where run_id = $1",
    ]) {
      await owner.query(forged, [one.runId])
    }
    await expectUnused(one, "a forged yes")
  })
})

async function asApp({ workspaceId, runId }: Waiting, sql: string): Promise<void> {
  await app.query("begin")
  try {
    await app.query("select set_config('runwarden.workspace_id', $1, true)", [workspaceId])
    await app.query(sql, [runId])
  } finally {
    await app.query("rollback")
  }
}
