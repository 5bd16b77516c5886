import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Subject, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { connect } from "../../mesh/database.ts"
import { metadataOf, reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import {
  as,
  moderateRequest,
  ruleMessage,
  type ServedModeration,
  serveModeration,
} from "./moderation-harness.ts"

let served: ServedModeration
beforeAll(async () => {
  served = await serveModeration()
})
afterAll(() => served[Symbol.asyncDispose]())

const key = ["AK", "IA", "QWERTYUIOPASDFGH"].join("")

async function decide(workspaceId: string, content: Record<string, string | string[]>) {
  const request = moderateRequest(workspaceId, content)
  const { decision } = await served.moderation.moderate(request, as(workspaceId, Role.MEMBER))
  if (decision === undefined) throw new Error("no decision")
  return decision
}

async function createVersion(workspaceId: string, change: Parameters<typeof ruleMessage>[0] = {}) {
  const request = { workspaceId, requestId: newId(), name: "fruit", rules: [ruleMessage(change)] }
  const { policyVersion } = await served.policies.createPolicyVersion(request, as(workspaceId))
  if (policyVersion === undefined) throw new Error("no version")
  return policyVersion
}

function activate(workspaceId: string, policyVersion: string, etag = "") {
  const request = { workspaceId, requestId: newId(), policyVersion, etag }
  return served.policies.activatePolicyVersion(request, as(workspaceId))
}

async function failureOf(call: Promise<unknown>) {
  try {
    await call
  } catch (error) {
    return { reason: reasonOf(error), metadata: metadataOf(error) }
  }
  throw new Error("it did not fail")
}

describe("Moderate", () => {
  it("stores the decision with the content's digest", async () => {
    const workspaceId = newId()
    const content = { name: "Apollo" }
    const decision = await decide(workspaceId, content)
    expect(decision).toMatchObject({
      verdict: Verdict.ALLOWED,
      policyVersion: "default@2",
      contentDigest: digestOfStruct(content),
      failure: "",
      matchedRules: [],
    })
    expect(decision.latencyMicros).toBeGreaterThan(0)
    const { decisionId } = decision
    const stored = await served.decisions.getDecision({ workspaceId, decisionId }, as(workspaceId))
    expect(stored.decision).toEqual(decision)
  })

  it("names the rule, the category and the place of what it blocks", async () => {
    const decision = await decide(newId(), { list: ["fine", `the key is ${key}`] })
    expect(decision.verdict).toBe(Verdict.BLOCKED)
    expect(decision.categories).toEqual({ secrets: 1 })
    expect(decision.matchedRules[0]).toMatchObject({
      ruleId: "secret-in-written-arguments",
      verdict: Verdict.BLOCKED,
      pointer: "/list/1",
    })
  })

  it("blocks what it cannot judge as a whole, and stores that", async () => {
    const workspaceId = newId()
    const decision = await decide(workspaceId, { list: Array.from({ length: 10_001 }, () => "x") })
    expect(decision).toMatchObject({
      verdict: Verdict.BLOCKED,
      failure: "the content holds more than 10000 values",
    })
    const { decisions } = await served.decisions.listDecisions({ workspaceId }, as(workspaceId))
    expect(decisions).toEqual([decision])
  })

  it("blocks, with an empty digest, what has no canonical form", async () => {
    const decision = await decide(newId(), { text: "half \ud800 a pair" })
    expect(decision).toMatchObject({ verdict: Verdict.BLOCKED, contentDigest: "" })
    expect(decision.failure).toBe("the content has no canonical form")
  })

  it("stores pointers that no database text could hold as they are", async () => {
    const decision = await decide(newId(), { [`a\0b\ud800${"k".repeat(600)}`]: key })
    expect(decision.verdict).toBe(Verdict.BLOCKED)
  })

  it("blocks where the active policy cannot be used any more", async () => {
    const workspaceId = newId()
    const { policyVersion } = await createVersion(workspaceId)
    await activate(workspaceId, policyVersion)
    const other = newId()
    await using owner = await connect(served.database.ownerUrl)
    await owner.query("alter table active_policies disable row level security")
    await owner.query(
      `insert into active_policies values ('${other}', 'gone@1', 1, 'x'), ('${newId()}', 'x@1', 1, 'x')`,
    )
    await owner.query("alter table active_policies enable row level security")
    expect(await decide(other, { text: "hello" })).toMatchObject({
      verdict: Verdict.BLOCKED,
      policyVersion: "gone@1",
      failure: "the active policy version does not exist",
    })
  })
})

describe("policy versions", () => {
  it("are created, activated at once and rolled back", async () => {
    const workspaceId = newId()
    expect((await decide(workspaceId, { text: "an apple" })).verdict).toBe(Verdict.ALLOWED)
    const first = await createVersion(workspaceId)
    const second = await createVersion(workspaceId, { verdict: Verdict.FLAGGED })
    expect([first.policyVersion, second.policyVersion]).toEqual(["fruit@1", "fruit@2"])
    expect(first.digest).not.toBe(second.digest)
    expect((await decide(workspaceId, { text: "an apple" })).verdict).toBe(Verdict.ALLOWED)

    for (const [version, verdict] of [
      ["fruit@2", Verdict.FLAGGED],
      ["fruit@1", Verdict.BLOCKED],
      ["default@2", Verdict.ALLOWED],
    ] as const) {
      await activate(workspaceId, version)
      const decision = await decide(workspaceId, { text: "an apple" })
      expect(decision).toMatchObject({ verdict, policyVersion: version })
    }
  })

  it("are read as they were written, the default among them", async () => {
    const workspaceId = newId()
    const created = await createVersion(workspaceId)
    await activate(workspaceId, "fruit@1")
    const get = (policyVersion: string) =>
      served.policies.getPolicyVersion({ workspaceId, policyVersion }, as(workspaceId, Role.VIEWER))
    expect((await get("fruit@1")).policyVersion).toEqual({ ...created, active: true })
    const { policyVersion } = await get("default@2")
    expect(policyVersion).toMatchObject({ name: "default", workspaceId, active: false })
    expect(policyVersion?.rules.length).toBeGreaterThan(5)
    const { activePolicy } = await served.policies.getActivePolicy({ workspaceId }, as(workspaceId))
    expect(activePolicy?.policy?.policyVersion).toBe("fruit@1")
  })

  it("count up without gaps or repeats when many are created at once", async () => {
    const workspaceId = newId()
    const created = await Promise.all(Array.from({ length: 8 }, () => createVersion(workspaceId)))
    expect(created.map(({ version }) => version).sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    const names: string[] = []
    for (let pageToken = ""; ; ) {
      const request = { workspaceId, pageSize: 3, pageToken, name: "fruit" }
      const page = await served.policies.listPolicyVersions(request, as(workspaceId))
      names.push(...page.policyVersions.map((each) => each.policyVersion))
      pageToken = page.nextPageToken
      if (pageToken === "") break
    }
    expect(new Set(names).size).toBe(8)
  })

  it("are refused as a whole, with the field and the place, when one rule is broken", async () => {
    const workspaceId = newId()
    const broken = ruleMessage({
      ruleId: "broken",
      matcher: { case: "expression", value: "subject ==" },
    })
    const request = {
      workspaceId,
      requestId: newId(),
      name: "fruit",
      rules: [ruleMessage(), broken],
    }
    const call = served.policies.createPolicyVersion(request, as(workspaceId))
    expect(await failureOf(call)).toMatchObject({
      reason: "INVALID_POLICY",
      metadata: { field: "rules[1].expression", cause: expect.stringMatching(/at 1:\d+$/) },
    })
    const { policyVersions } = await served.policies.listPolicyVersions(
      { workspaceId },
      as(workspaceId),
    )
    expect(policyVersions).toEqual([])
  })

  it("are created and activated once per request id", async () => {
    const workspaceId = newId()
    const request = { workspaceId, requestId: newId(), name: "fruit", rules: [ruleMessage()] }
    const calls = Array.from({ length: 4 }, () =>
      served.policies.createPolicyVersion(request, as(workspaceId)),
    )
    const versions = (await Promise.all(calls)).map(({ policyVersion }) => policyVersion?.version)
    expect(versions).toEqual([1, 1, 1, 1])
    const other = served.policies.createPolicyVersion({ ...request, name: "tree" }, as(workspaceId))
    expect((await failureOf(other)).reason).toBe("REQUEST_ID_CONFLICT")
  })

  it("are activated only if nobody else did, where an etag is given", async () => {
    const workspaceId = newId()
    await createVersion(workspaceId)
    const { activePolicy } = await served.policies.getActivePolicy({ workspaceId }, as(workspaceId))
    const etag = activePolicy?.etag ?? ""
    const first = await activate(workspaceId, "fruit@1", etag)
    const stale = await failureOf(activate(workspaceId, "default@2", etag))
    expect(stale.reason).toBe("ETAG_MISMATCH")
    const second = await activate(workspaceId, "default@2", first.activePolicy?.etag)
    expect(second.activePolicy?.policy?.policyVersion).toBe("default@2")
    expect((await failureOf(activate(newId(), "default@2", '"7"'))).reason).toBe("ETAG_MISMATCH")
  })

  it("are tried without consequences", async () => {
    const workspaceId = newId()
    await createVersion(workspaceId)
    const request = { ...moderateRequest(workspaceId, { text: "apple" }), policyVersion: "fruit@1" }
    const { decision } = await served.policies.testPolicyVersion(request, as(workspaceId))
    expect(decision).toMatchObject({ verdict: Verdict.BLOCKED, decisionId: "" })
    const { decisions } = await served.decisions.listDecisions({ workspaceId }, as(workspaceId))
    expect(decisions).toEqual([])
  })
})

describe("ListDecisions", () => {
  it("filters by verdict and run, newest first, page by page", async () => {
    const workspaceId = newId()
    const allowed = [
      await decide(workspaceId, { text: "a" }),
      await decide(workspaceId, { text: "b" }),
    ]
    const blocked = await decide(workspaceId, { text: key })
    const list = async (filter: { verdict?: Verdict; runId?: string; pageSize?: number }) => {
      const ids: string[] = []
      for (let pageToken = ""; ; ) {
        const request = { workspaceId, ...filter, pageToken }
        const page = await served.decisions.listDecisions(request, as(workspaceId, Role.VIEWER))
        ids.push(...page.decisions.map((decision) => decision.decisionId))
        pageToken = page.nextPageToken
        if (pageToken === "") return ids
      }
    }
    const [first, second] = allowed.map(({ decisionId }) => decisionId)
    expect(await list({ pageSize: 1 })).toEqual([blocked.decisionId, second, first])
    expect(await list({ verdict: Verdict.BLOCKED })).toEqual([blocked.decisionId])
    expect(await list({ verdict: Verdict.ALLOWED })).toEqual([second, first])
    expect(await list({ runId: blocked.runId })).toEqual([blocked.decisionId])
    const foreign = { workspaceId, pageToken: "bm90aGluZw" }
    const call = served.decisions.listDecisions(foreign, as(workspaceId))
    expect((await failureOf(call)).reason).toBe("INVALID_PAGE_TOKEN")
  })
})

describe("another workspace", () => {
  it("has its versions, decisions and activation for itself", async () => {
    const [mine, theirs] = [newId(), newId()]
    await createVersion(theirs)
    await activate(theirs, "fruit@1")
    const { decisionId } = await decide(theirs, { text: "apple" })
    expect((await decide(mine, { text: "apple" })).verdict).toBe(Verdict.ALLOWED)
    const policyVersion = "fruit@1"
    const test = { ...moderateRequest(mine, {}), policyVersion }
    const reads = [
      () => served.decisions.getDecision({ workspaceId: mine, decisionId }, as(mine)),
      () => served.policies.getPolicyVersion({ workspaceId: mine, policyVersion }, as(mine)),
      () => activate(mine, policyVersion),
      () => served.policies.testPolicyVersion(test, as(mine)),
    ]
    for (const read of reads) expect((await failureOf(read())).reason).toBe("NOT_FOUND")
    const forged = served.decisions.getDecision({ workspaceId: theirs, decisionId }, as(mine))
    expect((await failureOf(forged)).reason).toBe("WORKSPACE_MISMATCH")
    const listed = await served.decisions.listDecisions({ workspaceId: mine }, as(mine))
    expect(listed.decisions.map((decision) => decision.workspaceId)).toEqual([mine])
  })
})

describe("who may", () => {
  it("create a version: an admin, and no approver", async () => {
    const workspaceId = newId()
    const request = { workspaceId, requestId: newId(), name: "fruit", rules: [ruleMessage()] }
    const call = served.policies.createPolicyVersion(request, as(workspaceId, Role.APPROVER))
    expect((await failureOf(call)).reason).toBe("ROLE_TOO_LOW")
  })

  it("name a policy default: nobody", async () => {
    const workspaceId = newId()
    const request = { workspaceId, requestId: newId(), name: "default", rules: [ruleMessage()] }
    const call = served.policies.createPolicyVersion(request, as(workspaceId))
    expect((await failureOf(call)).reason).toBe("INVALID_REQUEST")
  })
})

it("an unknown subject is refused before anything is judged", async () => {
  const workspaceId = newId()
  const request = { ...moderateRequest(workspaceId, {}), subject: Subject.UNSPECIFIED }
  const call = served.moderation.moderate(request, as(workspaceId))
  expect((await failureOf(call)).reason).toBe("INVALID_REQUEST")
})
