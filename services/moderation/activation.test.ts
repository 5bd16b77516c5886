import { timestampMs } from "@bufbuild/protobuf/wkt"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Decision, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import { RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { type Connection, connect } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { testDatabase } from "../../mesh/testing.ts"
import { shippedClassifiers } from "./classifier/embedded.ts"
import { readShippedPolicies } from "./default-policy.ts"
import {
  as,
  moderateRequest,
  ruleMessage,
  type ServedModeration,
  serveModeration,
} from "./moderation-harness.ts"
import { createPolicyBook, inForceMs } from "./policy-book.ts"

let here: ServedModeration
let elsewhere: ServedModeration
let unused: ServedModeration
let owner: Connection
beforeAll(async () => {
  const database = await testDatabase("moderation")
  here = await serveModeration(database)
  elsewhere = await serveModeration(database)
  unused = await serveModeration(database)
  owner = await connect(database.ownerUrl)
  await owner.query("alter table decisions no force row level security")
})
afterAll(async () => {
  await owner[Symbol.asyncDispose]()
  await elsewhere[Symbol.asyncDispose]()
  await unused[Symbol.asyncDispose]()
  await here[Symbol.asyncDispose]()
  await here.database[Symbol.asyncDispose]()
})

async function decide(
  served: ServedModeration,
  workspaceId: string,
  riskClass: RiskClass = RiskClass.LOW,
  text = "an apple",
): Promise<Decision> {
  const request = { ...moderateRequest(workspaceId, { text }), riskClass }
  const { decision } = await served.moderation.moderate(request, as(workspaceId))
  if (decision === undefined) throw new Error("no decision")
  return decision
}

async function activate(workspaceId: string, requestId = newId()): Promise<void> {
  const rules = [ruleMessage()]
  const created = { workspaceId, requestId: newId(), name: "fruit", rules }
  await here.policies.createPolicyVersion(created, as(workspaceId))
  const request = { workspaceId, requestId, policyVersion: "fruit@1" }
  await here.policies.activatePolicyVersion(request, as(workspaceId))
}

/** A workspace that both replicas have just judged by the default. */
async function knownWorkspace(): Promise<string> {
  const workspaceId = newId()
  for (const served of [here, elsewhere]) {
    expect((await decide(served, workspaceId)).verdict).toBe(Verdict.ALLOWED)
  }
  return workspaceId
}

describe("an activation", () => {
  it("is in force at once where it was taken, whatever is being judged", async () => {
    const workspaceId = await knownWorkspace()
    let isActive = false
    const wrong: string[] = []
    const client = async () => {
      for (let judged = 0; judged < 20 || !isActive; judged += 1) {
        const wasActive = isActive
        const { policyVersion } = await decide(here, workspaceId)
        if (wasActive && policyVersion !== "fruit@1") wrong.push(policyVersion)
      }
      for (let judged = 0; judged < 20; judged += 1) await decide(here, workspaceId)
    }
    const clients = Array.from({ length: 8 }, client)
    await activate(workspaceId)
    isActive = true
    await Promise.all(clients)
    expect(wrong).toEqual([])
  })

  it("is in force elsewhere within half a second, and what was answered by then says so", async () => {
    const workspaceId = await knownWorkspace()
    await activate(workspaceId)
    const activated = Date.now()
    const late: Decision[] = []
    for (let decision = await decide(elsewhere, workspaceId); ; ) {
      if (decision.policyVersion === "fruit@1") break
      late.push(decision)
      decision = await decide(elsewhere, workspaceId)
    }
    for (const { decisionId, createTime } of late) {
      const decided = createTime === undefined ? Number.NaN : timestampMs(createTime)
      expect(decided - activated).toBeLessThanOrEqual(inForceMs)
      const request = { workspaceId, decisionId }
      const { decision } = await elsewhere.decisions.getDecision(request, as(workspaceId))
      expect(decision).toMatchObject({ policyVersion: "default@2", replacedBy: "fruit@1" })
    }
  })

  it("is in force elsewhere at once for what is stored before it is answered", async () => {
    const workspaceId = await knownWorkspace()
    await activate(workspaceId)
    const decision = await decide(elsewhere, workspaceId, RiskClass.HIGH)
    expect(decision).toMatchObject({ verdict: Verdict.BLOCKED, policyVersion: "fruit@1" })
    expect((await decide(elsewhere, workspaceId)).policyVersion).toBe("fruit@1")
  })

  it("is asked about where nothing was judged for half a second", async () => {
    const workspaceId = await knownWorkspace()
    await activate(workspaceId)
    await new Promise((resolve) => setTimeout(resolve, inForceMs))
    const { decisionId, policyVersion } = await decide(elsewhere, workspaceId)
    expect(policyVersion).toBe("fruit@1")
    const sql = "select policy_version from decisions where decision_id = $1::uuid"
    expect(await owner.query(sql, [decisionId])).toEqual([{ policy_version: "fruit@1" }])
  })

  it("that is sent again says nothing of what is active now", async () => {
    const workspaceId = await knownWorkspace()
    const requestId = newId()
    await activate(workspaceId, requestId)
    const back = { workspaceId, requestId: newId(), policyVersion: "default@2" }
    await elsewhere.policies.activatePolicyVersion(back, as(workspaceId))
    const again = { workspaceId, requestId, policyVersion: "fruit@1" }
    await elsewhere.policies.activatePolicyVersion(again, as(workspaceId))
    await unused.policies.activatePolicyVersion(again, as(workspaceId))
    for (const served of [elsewhere, unused]) {
      const decision = await decide(served, workspaceId, RiskClass.LOW, "a pear")
      expect(decision.policyVersion).toBe("default@2")
    }
  })
})

describe("what a replica has seen", () => {
  const shipped = readShippedPolicies(shippedClassifiers())
  const version = (revision: number) => ({ policyVersion: `v@${revision}`, revision })

  it("is not replaced by what was true before, unless the database was set back", () => {
    const book = createPolicyBook({
      database: undefined as never,
      shipped,
      classifiers: shippedClassifiers(),
    })
    const workspaceId = newId()
    const before = performance.now()
    book.note(workspaceId, version(2), performance.now())
    book.note(workspaceId, version(1), before)
    expect(book.isInForce(workspaceId, "v@2")).toBe(true)
    book.note(workspaceId, version(1), performance.now())
    expect(book.isInForce(workspaceId, "v@1")).toBe(true)
  })

  it("counts from when it was asked for, and what was asked for later counts", () => {
    const book = createPolicyBook({
      database: undefined as never,
      shipped,
      classifiers: shippedClassifiers(),
    })
    const workspaceId = newId()
    book.note(workspaceId, version(1), performance.now() - inForceMs)
    expect(book.isInForce(workspaceId, "v@1")).toBe(false)
    book.note(workspaceId, version(1), performance.now())
    book.note(workspaceId, version(1), performance.now() - inForceMs)
    expect(book.isInForce(workspaceId, "v@1")).toBe(true)
  })
})

describe("a decision is stored before it is answered", () => {
  it.each([
    ["allowed on a HIGH call", "an apple", RiskClass.HIGH],
    ["allowed on a call of no risk class", "an apple", RiskClass.UNSPECIFIED],
    ["blocked", ["AK", "IA", "QWERTYUIOPASDFGH"].join(""), RiskClass.LOW],
    ["flagged", "card 4111-1111-1111-1111", RiskClass.LOW],
    ["failed", "half \ud800 a pair", RiskClass.LOW],
  ])("when it is %s", async (_, text, riskClass) => {
    const workspaceId = await knownWorkspace()
    await using holder = await connect(here.database.ownerUrl)
    await holder.query("begin")
    await holder.query("lock table decisions in share mode")
    let answered: Decision | undefined
    const request = { ...moderateRequest(workspaceId, { text }), riskClass }
    const call = here.moderation.moderate(request, as(workspaceId)).then(({ decision }) => {
      answered = decision
    })
    expect((await decide(here, workspaceId)).verdict).toBe(Verdict.ALLOWED)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(answered).toBeUndefined()
    await holder.query("commit")
    await call
    const sql = "select 1 from decisions where decision_id = $1::uuid"
    expect(await owner.query(sql, [answered?.decisionId])).toHaveLength(1)
  })
})

it("a replica that cannot store gives no verdict", async () => {
  const workspaceId = await knownWorkspace()
  const worker = new URL(here.database.workerUrl).username
  await owner.query(`revoke insert on decisions from "${worker}"`)
  const outcomes: string[] = []
  for (let call = 0; call < 50; call += 1) {
    const outcome = await decide(here, workspaceId).then(
      () => "answered",
      () => "refused",
    )
    outcomes.push(outcome)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  await owner.query(`grant insert on decisions to "${worker}"`)
  const answered = outcomes.indexOf("refused")
  expect(answered).toBeGreaterThanOrEqual(0)
  expect(outcomes.slice(answered)).toEqual(outcomes.slice(answered).map(() => "refused"))
})
