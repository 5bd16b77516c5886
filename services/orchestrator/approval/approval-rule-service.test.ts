/** Approval rules and delegations as resources: versions, activation, who may do what. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { createPeers, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
const peers = createPeers()
const defaults = { ...peers.script }

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

function scope() {
  const workspaceId = newId()
  const as = (role: Role, actorId: string = newId()) =>
    actingAs(memberSubject(workspaceId, actorId, role))
  const { rules } = orchestrator
  const admin = as(Role.ADMIN)
  return {
    workspaceId,
    as,
    admin,
    async create(ids: readonly string[], options = admin) {
      const request = {
        workspaceId,
        requestId: newId(),
        description: "test",
        rules: ids.map((ruleId) => ({ ruleId, quorum: 2 })),
      }
      return (await rules.createApprovalRuleVersion(request, options)).version
    },
    async activate(ruleVersion: string, etag = "", options = admin) {
      const request = { workspaceId, requestId: newId(), ruleVersion, etag }
      return (await rules.activateApprovalRuleVersion(request, options)).activeRules
    },
    async active() {
      return (await rules.getActiveApprovalRules({ workspaceId }, admin)).activeRules
    },
  }
}

describe("approval rules", () => {
  it("begin with the deployment's default, which cannot be changed and can be gone back to", async () => {
    const me = scope()
    const first = await me.active()
    expect(first).toMatchObject({ etag: '"0"', activatorId: "" })
    expect(first?.version).toMatchObject({
      ruleVersion: "default@1",
      workspaceId: me.workspaceId,
      active: true,
      rules: [
        {
          ruleId: "default",
          approverRole: Role.APPROVER,
          requesterMayAnswer: false,
          quorum: 1,
          expiry: { seconds: 86_400n },
          delegationAllowed: false,
          breakGlassAllowed: false,
        },
      ],
    })
    const version = await me.create(["one", "two"])
    expect(version).toMatchObject({ ruleVersion: "rules@1", active: false })
    expect(version?.digest).toMatch(/^[0-9a-f]{64}$/)
    expect((await me.active())?.version?.ruleVersion).toBe("default@1")
    await me.activate("rules@1")
    expect((await me.active())?.version?.rules.map(({ ruleId }) => ruleId)).toEqual(["one", "two"])
    await me.activate("default@1")
    expect((await me.active())?.version?.ruleVersion).toBe("default@1")
  })

  it("are counted without gaps or twins, whoever creates them at once, and read back as given", async () => {
    const me = scope()
    const made = await Promise.all(Array.from({ length: 12 }, (_, n) => me.create([`r${n}`])))
    const numbers = made.map((version) => Number(version?.ruleVersion.slice("rules@".length)))
    expect(numbers.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, n) => n + 1))
    const { workspaceId, admin } = me
    const seen: string[] = []
    let pageToken = ""
    do {
      const request = { workspaceId, pageSize: 5, pageToken }
      const page = await orchestrator.rules.listApprovalRuleVersions(request, admin)
      expect(page.versions.every(({ rules }) => rules.length === 0)).toBe(true)
      seen.push(...page.versions.map(({ ruleVersion }) => ruleVersion))
      pageToken = page.nextPageToken
    } while (pageToken !== "")
    expect(seen).toEqual(Array.from({ length: 12 }, (_, n) => `rules@${12 - n}`))
    for (const version of made) {
      const ruleVersion = version?.ruleVersion ?? ""
      const request = { workspaceId, ruleVersion }
      const read = await orchestrator.rules.getApprovalRuleVersion(request, admin)
      expect(read.version).toEqual(version)
    }
  })

  it("are activated by one of many who saw the same etag", async () => {
    const me = scope()
    await me.create(["a"])
    const etag = (await me.active())?.etag ?? ""
    const settled = await Promise.allSettled(
      Array.from({ length: 8 }, () => me.activate("rules@1", etag)),
    )
    const refused = settled.flatMap((one) => (one.status === "rejected" ? [one.reason] : []))
    expect(refused.map(reasonOf)).toEqual(Array(7).fill("ETAG_MISMATCH"))
    expect((await me.active())?.etag).toBe('"1"')
    await me.activate("rules@1")
    expect((await me.active())?.etag).toBe('"2"')
  })

  it("are the admin's to make, and refused where they are no rules", async () => {
    const me = scope()
    for (const role of [Role.VIEWER, Role.MEMBER, Role.APPROVER]) {
      expect(reasonOf(await caught(me.create(["a"], me.as(role))))).toBe("ROLE_TOO_LOW")
      const activation = me.activate("default@1", "", me.as(role))
      expect(reasonOf(await caught(activation))).toBe("ROLE_TOO_LOW")
    }
    expect(reasonOf(await caught(me.create(["a", "a"])))).toBe("INVALID_POLICY")
    for (const ids of [[], ["default"], ["No good"]]) {
      expect(reasonOf(await caught(me.create(ids)))).toBe("INVALID_REQUEST")
    }
    expect(reasonOf(await caught(me.activate("rules@9")))).toBe("NOT_FOUND")
    expect(reasonOf(await caught(me.activate("other@1")))).toBe("INVALID_REQUEST")
  })
})

describe("delegations", () => {
  const delegator = newId()

  function delegating() {
    const me = scope()
    const { delegations } = orchestrator
    const asDelegator = me.as(Role.APPROVER, delegator)
    const { workspaceId } = me
    return {
      ...me,
      asDelegator,
      async delegate(delegateId: string, seconds = 3_600, options = asDelegator) {
        const duration = { seconds: BigInt(seconds), nanos: 0 }
        const request = { workspaceId, requestId: newId(), delegateId, duration, comment: "away" }
        return (await delegations.createDelegation(request, options)).delegation
      },
      async revoke(delegationId: string, options = asDelegator) {
        const request = { workspaceId, requestId: newId(), delegationId }
        return (await delegations.revokeDelegation(request, options)).delegation
      },
      async list(filter: { readonly activeOnly?: boolean; readonly actorId?: string } = {}) {
        const listed = await delegations.listDelegations({ workspaceId, ...filter }, me.admin)
        return listed.delegations.map(({ delegationId }) => delegationId)
      },
    }
  }

  it("are made by an approver for a member, for a time, and end by themselves or when revoked", async () => {
    const me = delegating()
    const delegateId = newId()
    const made = await me.delegate(delegateId)
    expect(made).toMatchObject({
      delegatorId: delegator,
      delegateId,
      comment: "away",
      active: true,
    })
    const lastSeconds = await me.delegate(newId(), 1)
    expect(await me.list()).toEqual([lastSeconds?.delegationId, made?.delegationId])
    expect(await me.list({ actorId: delegateId })).toEqual([made?.delegationId])
    await until(async () => (await me.list({ activeOnly: true })).length === 1)
    const revoked = await me.revoke(made?.delegationId ?? "")
    expect(revoked).toMatchObject({ active: false, revokerId: delegator })
    expect(await me.list({ activeOnly: true })).toEqual([])
    const again = await me.revoke(made?.delegationId ?? "", me.admin)
    expect(again).toEqual(revoked)
  })

  it("are refused to who may not pass anything on, and towards who may not act", async () => {
    const me = delegating()
    const low = me.delegate(newId(), 60, me.as(Role.MEMBER))
    expect(reasonOf(await caught(low))).toBe("ROLE_TOO_LOW")
    expect(reasonOf(await caught(me.delegate(delegator)))).toBe("INVALID_REQUEST")
    expect(reasonOf(await caught(me.delegate(newId(), 0)))).toBe("INVALID_REQUEST")
    expect(reasonOf(await caught(me.delegate(newId(), 7_776_001)))).toBe("INVALID_REQUEST")
    for (const standing of [
      { member: false, role: Role.UNSPECIFIED },
      { member: true, role: Role.VIEWER },
    ]) {
      peers.script.member = () => standing
      expect(reasonOf(await caught(me.delegate(newId())))).toBe("NOT_FOUND")
    }
  })

  it("are revoked by their delegator or an admin, and by nobody else", async () => {
    const me = delegating()
    const made = await me.delegate(newId())
    const id = made?.delegationId ?? ""
    const other = me.revoke(id, me.as(Role.APPROVER))
    expect(reasonOf(await caught(other))).toBe("ROLE_TOO_LOW")
    const delegate = me.revoke(id, me.as(Role.MEMBER, made?.delegateId))
    expect(reasonOf(await caught(delegate))).toBe("ROLE_TOO_LOW")
    expect(reasonOf(await caught(me.revoke(newId())))).toBe("NOT_FOUND")
    expect(await me.revoke(id, me.admin)).toMatchObject({ active: false })
  })
})

function caught(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
