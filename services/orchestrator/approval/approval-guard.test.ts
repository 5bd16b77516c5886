/** What the database itself refuses about approvals, tried as the application's own role. */
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Connection, connect, type Database, openDatabase } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime } from "../../../mesh/testing.ts"
import { Change } from "../change/change.ts"
import { type ChangeStore, createChangeStore } from "../change/change-store.ts"
import { createPeers, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"
import { readSnapshot } from "../run/snapshot-store.ts"
import type { GivenAnswer } from "./approval-answer.ts"
import { inRuledWorkspace, type RuleInit } from "./approval-harness.ts"

let orchestrator: Orchestrator
let app: Connection
let database: Database
let changes: ChangeStore
const peers = createPeers()

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
  app = await connect(orchestrator.database.appUrl)
  database = openDatabase(orchestrator.database, {
    runtime: testRuntime("orchestrator"),
    migrations: fileURLToPath(new URL("../migrations", import.meta.url)),
  })
  changes = createChangeStore(database, 100)
})
afterAll(async () => {
  await changes[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
  await app[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

const strict: RuleInit = { ruleId: "two", quorum: 2 }
const lenient: RuleInit = { ...strict, delegationAllowed: true, breakGlassAllowed: true }

async function waiting(rule: RuleInit) {
  const me = inRuledWorkspace(orchestrator)
  await me.useRules([rule])
  const { runId } = await me.start([{ tool: "high.keyed", arguments: { a: 1 } }])
  const approval = await me.pendingApproval(runId)
  const delegator = me.person(Role.APPROVER)
  const delegate = me.person(Role.MEMBER)
  const delegationId = await me.delegate(delegator, delegate)
  const { workspaceId, requesterId } = me
  return { me, workspaceId, requesterId, runId, approval, delegator, delegate, delegationId }
}

type Waiting = Awaited<ReturnType<typeof waiting>>

/** An answer as a row; what is left out is that of the first yes of an approver. */
type Row = Readonly<Record<string, string | number | boolean | null>>

function insertAnswer({ approval, requesterId, workspaceId }: Waiting, row: Row) {
  const all: Row = {
    workspace_id: workspaceId,
    approval_id: approval.approvalId,
    answer_index: 1,
    actor_id: "ann",
    role: 3,
    answer: "approve",
    comment: "",
    delegation_id: null,
    delegator_id: null,
    break_glass_reason: null,
    approval_number: 1,
    requester_id: requesterId,
    distinct_from_requester: true,
    approver_role: 3,
    allows_delegation: approval.delegationAllowed,
    allows_break_glass: approval.breakGlassAllowed,
    ...row,
  }
  const names = Object.keys(all)
  return app.query(
    `insert into approval_answers (${names}) values (${names.map((_, n) => `$${n + 1}`)})`,
    Object.values(all),
  )
}

async function inTenant({ workspaceId }: Waiting, work: () => Promise<unknown>): Promise<void> {
  await app.query("begin")
  try {
    await app.query("select set_config('runwarden.workspace_id', $1, true)", [workspaceId])
    await work()
  } finally {
    await app.query("rollback")
  }
}

/** Expects that the last of some rows is refused, and by what. */
async function refused(one: Waiting, rows: readonly Row[], by: string): Promise<void> {
  await inTenant(one, async () => {
    for (const row of rows.slice(0, -1)) await insertAnswer(one, row)
    await expect(insertAnswer(one, rows.at(-1) ?? {})).rejects.toThrow(by)
  })
}

describe("the database", () => {
  it("takes no answer that the rule forbids", async () => {
    const one = await waiting(strict)
    await refused(one, [{ role: 2 }], "approval_answers_role_check")
    await refused(one, [{ role: 2, approver_role: 2 }], "approval_answers_rule_fkey")
    await refused(one, [{ actor_id: one.requesterId }], "approval_answers_requester_check")
    const own = { actor_id: one.requesterId, distinct_from_requester: false }
    await refused(one, [own], "approval_answers_rule_fkey")
    const other = { actor_id: one.requesterId, requester_id: "somebody" }
    await refused(one, [other], "approval_answers_rule_fkey")
    const delegated = delegatedRow(one)
    await refused(one, [delegated], "approval_answers_delegation_check")
    await refused(one, [{ ...delegated, allows_delegation: true }], "approval_answers_rule_fkey")
    const glass = { break_glass_reason: "the site is down", approval_number: null, role: 4 }
    await refused(one, [glass], "approval_answers_glass_check")
    await refused(one, [{ ...glass, allows_break_glass: true }], "approval_answers_rule_fkey")
  })

  it("takes no delegation but the delegate's own, and none of or for the requester", async () => {
    const one = await waiting(lenient)
    const delegated = delegatedRow(one)
    const fkey = "approval_answers_delegation_fkey"
    await refused(one, [{ ...delegated, actor_id: "max" }], fkey)
    await refused(one, [{ ...delegated, delegator_id: "ann" }], fkey)
    await refused(one, [{ ...delegated, delegation_id: newId() }], fkey)
    await refused(one, [{ ...delegated, delegation_id: null }], "approval_answers_delegation_check")
    const forRequester = { ...delegated, delegator_id: one.requesterId }
    await refused(one, [forRequester], "approval_answers_requester_check")
    await inTenant(one, () => insertAnswer(one, delegated))
  })

  it("takes no broken glass without a reason, an admin, or twice", async () => {
    const one = await waiting(lenient)
    const check = "approval_answers_glass_check"
    const glass = { break_glass_reason: "the site is down", approval_number: null, role: 4 }
    await refused(one, [{ ...glass, break_glass_reason: "" }], check)
    await refused(one, [{ ...glass, role: 3 }], check)
    await refused(one, [{ ...glass, answer: "reject" }], check)
    await refused(one, [{ ...glass, ...delegatedRow(one), role: 4, approval_number: null }], check)
    await refused(one, [{ ...glass, approval_number: 1 }], "approval_answers_number_check")
    const again = { ...glass, actor_id: "bob", answer_index: 2 }
    await refused(one, [glass, again], "approval_answers_glass_key")
  })

  it("counts each person once, and leaves no number out", async () => {
    const one = await waiting(lenient)
    const second = { answer_index: 2, approval_number: 2 }
    await refused(one, [{}, second], "approval_answers_actor_key")
    const actor = { ...delegatedRow(one), ...second }
    const himself = { actor_id: one.delegator.actorId }
    await refused(one, [himself, actor], "approval_answers_principal_key")
    await refused(one, [{ approval_number: 2 }], "approval_answers_number_fkey")
    const repeated = { actor_id: "bob", answer_index: 2, approval_number: 1 }
    await refused(one, [{}, repeated], "approval_answers_number_key")
    await refused(one, [{}, { actor_id: "bob" }], "approval_answers_pkey")
    const rejecting = { answer: "reject" }
    await refused(one, [rejecting], "approval_answers_number_check")
    await inTenant(one, async () => {
      await insertAnswer(one, {})
      await insertAnswer(one, { ...second, actor_id: "bob" })
    })
  })

  it("approves nothing by fewer yeses than the rule asks for, whatever is claimed", async () => {
    const one = await waiting(lenient)
    const update = (set: string) =>
      app.query(`update approvals set ${set} where run_id = $1`, [one.runId])
    const tried = (set: string, by: string, rows: readonly Row[] = []) =>
      inTenant(one, async () => {
        for (const row of rows) await insertAnswer(one, row)
        await expect(update(set)).rejects.toThrow(by)
      })
    await tried("state = 'approved'", "approvals_enough_check")
    await tried("state = 'approved', approve_count = 1", "approvals_enough_check", [{}])
    const two = "state = 'approved', approve_count = 2"
    await tried(two, "approvals_counted_fkey")
    await tried(two, "approvals_counted_fkey", [{}])
    await tried("state = 'approved', is_glass_broken = true", "approvals_glass_fkey")
    await inTenant(one, async () => {
      await insertAnswer(one, {})
      await insertAnswer(one, { actor_id: "bob", answer_index: 2, approval_number: 2 })
      await update(two)
    })
  })

  it("keeps question, answers, rules and activations as they are", async () => {
    const one = await waiting(lenient)
    await one.me.say(one.approval, one.me.person(Role.APPROVER))
    for (const change of [
      "update approvals set binding = '{}'",
      "update approvals set digest = repeat('0', 64)",
      "update approvals set quorum = 1",
      "update approvals set expire_time = now() + interval '1 year'",
      "update approval_answers set comment = 'other'",
      "delete from approval_answers",
      "update approval_rule_versions set rules = '[]'",
      "delete from approval_rule_versions",
      "update approval_rule_activations set activator_id = 'other'",
      "update delegations set expire_time = now() + interval '1 year'",
      "update delegations set delegate_id = 'other'",
      "delete from delegations",
    ]) {
      await inTenant(one, () => expect(app.query(change)).rejects.toThrow("permission denied"))
    }
    await using owner = await connect(orchestrator.database.ownerUrl ?? "")
    await owner.query("begin; alter table approvals no force row level security")
    const other = owner.query("update approvals set binding = '{}' where run_id = $1", [one.runId])
    await expect(other).rejects.toThrow("approvals_binding_check")
    await owner.query("rollback")
  })
})

it("lets an approval end that nobody counted, as one that was restored", async () => {
  const one = await waiting({ ruleId: "any" })
  await app.query("begin")
  await app.query("select set_config('runwarden.workspace_id', $1, true)", [one.workspaceId])
  await app.query("update approval_gauges set open = 0")
  await app.query("commit")
  await one.me.say(one.approval, one.me.person(Role.APPROVER))
  await one.me.reaches(one.runId, RunState.SUCCEEDED)
})

describe("the store, asked by code that forgot to weigh an answer", () => {
  const answer = (actorId: string, members: Partial<GivenAnswer> = {}): GivenAnswer => ({
    ...{ actorId, role: 3, answer: "approve", comment: "" },
    ...{ delegation: undefined, breakGlassReason: undefined, ...members },
  })

  it.each<[string, (one: Waiting) => readonly GivenAnswer[], string]>([
    ["too few persons", () => [answer("ann")], "approvals_enough_check"],
    ["one person twice", () => [answer("ann"), answer("ann")], "approval_answers_actor_key"],
    [
      "the requester",
      ({ requesterId }) => [answer("ann"), answer(requesterId)],
      "approval_answers_requester_check",
    ],
    [
      "too low a role",
      () => [answer("ann"), answer("bob", { role: 2 })],
      "approval_answers_role_check",
    ],
    [
      "somebody else's delegation",
      (one) => [
        answer("ann"),
        answer("max", {
          delegation: { delegationId: one.delegationId, delegatorId: one.delegator.actorId },
        }),
      ],
      "approval_answers_delegation_fkey",
    ],
    [
      "a broken glass by no admin",
      () => [answer("ann", { breakGlassReason: "the site is down" })],
      "approval_answers_glass_check",
    ],
  ])("%s: nothing is stored", async (_, answers, by) => {
    const one = await waiting(lenient)
    const snapshot = await database.tenant(one.workspaceId, (tx) =>
      readSnapshot(tx, one.workspaceId, { kind: "run", id: one.runId }),
    )
    if (snapshot?.approval === undefined) throw new Error("nothing to answer")
    const change = new Change(snapshot)
    let { approval } = snapshot
    for (const given of answers(one)) {
      change.answer(approval, given)
      approval = change.approvals[0] ?? approval
    }
    change.moveApproval(approval, "approve")
    change.moveCall(0, "approve")
    change.wake()
    await expect(changes.store(change)).rejects.toThrow(by)
    expect((await one.me.read(one.approval.approvalId)).answers).toEqual([])
    expect(peers.effects.filter(({ runId }) => runId === one.runId)).toEqual([])
  })
})

function delegatedRow({ delegate, delegator, delegationId }: Waiting): Row {
  return {
    actor_id: delegate.actorId,
    delegator_id: delegator.actorId,
    delegation_id: delegationId,
  }
}
