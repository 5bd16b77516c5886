import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ApiKeyService } from "../../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import { ActorKind } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject, type Subject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { testClient, until } from "../../mesh/testing.ts"
import { reasonIn, startGateway, type TestGateway, type TestWorkspace } from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let members: ReturnType<typeof testClient<typeof MembershipService>>
let keys: ReturnType<typeof testClient<typeof ApiKeyService>>
let workspaces: ReturnType<typeof testClient<typeof WorkspaceService>>

beforeAll(async () => {
  gateway = await startGateway()
  ours = await gateway.addWorkspace()
  members = testClient(MembershipService, gateway.target)
  keys = testClient(ApiKeyService, gateway.target)
  workspaces = testClient(WorkspaceService, gateway.target)
})
afterAll(() => gateway[Symbol.asyncDispose]())

const operator: Subject = {
  kind: "operator",
  workspaceId: "",
  actorId: "operator",
  role: Role.UNSPECIFIED,
}

function admin({ workspaceId, actors }: TestWorkspace) {
  return actingAs(memberSubject(workspaceId, actors.admin, Role.ADMIN))
}

function addMember(workspace: TestWorkspace, role: Role, requestId = newId()) {
  const { workspaceId } = workspace
  const kind = ActorKind.USER
  return members.addMember(
    { workspaceId, requestId, displayName: "New", role, kind },
    admin(workspace),
  )
}

async function reasonFrom(work: Promise<unknown>): Promise<unknown> {
  return work.then(() => "none", reasonOf)
}

describe("API keys", () => {
  test("the secret is shown once, works at once, and is nowhere in the database", async () => {
    const { workspaceId, actors } = ours
    const request = { workspaceId, requestId: newId(), actorId: actors.member, displayName: "CI" }
    const { apiKey, secret } = await keys.createApiKey(request, admin(ours))
    expect(secret.startsWith(`${apiKey?.prefix}_`)).toBe(true)
    const again = await keys.createApiKey(request, admin(ours))
    expect([again.apiKey?.keyId, again.secret]).toEqual([apiKey?.keyId, ""])
    expect((await gateway.call(`/v1/workspaces/${workspaceId}`, { key: secret })).status).toBe(200)
    const database = openDatabase(gateway.database, {
      runtime: gateway.runtime,
      migrations: import.meta.dirname,
    })
    const part = secret.slice(12, 55)
    const found = await database.tenant(workspaceId, (tx) =>
      tx.query(
        `select 1 from requests where position(convert_to($1::text, 'UTF8') in response) > 0
         union all select 1 from api_keys k where k::text like '%' || $1::text || '%'`,
        [part],
      ),
    )
    expect(found).toEqual([])
    await database[Symbol.asyncDispose]()
  })

  test("a revoked key is refused by the very next call, held in the cache or not", async () => {
    const { workspaceId, actors } = ours
    const path = `/v1/workspaces/${workspaceId}`
    for (let round = 0; round < 20; round++) {
      const request = { workspaceId, requestId: newId(), actorId: actors.viewer, displayName: "x" }
      const { apiKey, secret } = await keys.createApiKey(request, admin(ours))
      expect((await gateway.call(path, { key: secret })).status).toBe(200)
      // Reads that are under way while the key is revoked must not bring it back.
      const underWay = Array.from({ length: 4 }, () => gateway.call(path, { key: secret }))
      const keyId = apiKey?.keyId ?? ""
      await keys.revokeApiKey({ workspaceId, keyId, requestId: newId() }, admin(ours))
      expect((await gateway.call(path, { key: secret })).status).toBe(401)
      await Promise.all(underWay)
      expect((await gateway.call(path, { key: secret })).status).toBe(401)
    }
  })

  test("a demoted or removed member is held to it by the very next call", async () => {
    const workspace = await gateway.addWorkspace()
    const { workspaceId, actors, keys: secrets } = workspace
    const path = `/v1/workspaces/${workspaceId}/api-keys`
    await addMember(workspace, Role.ADMIN)
    expect((await gateway.call(path, { key: secrets.admin })).status).toBe(200)
    const named = { workspaceId, actorId: actors.admin }
    const demotion = { ...named, requestId: newId(), role: Role.VIEWER }
    await members.updateMember(demotion, admin(workspace))
    expect(reasonIn(await gateway.call(path, { key: secrets.admin }))).toBe("ROLE_TOO_LOW")
    const removed = await members.removeMember({ ...named, requestId: newId() }, admin(workspace))
    expect(removed.revokedKeys).toBe(1)
    expect(reasonIn(await gateway.call(path, { key: secrets.admin }))).toBe("UNAUTHENTICATED")
  })

  test("a key that is made while its member is removed is not left alive", async () => {
    for (let round = 0; round < 20; round++) {
      const workspace = await gateway.addWorkspace()
      const { workspaceId, actors } = workspace
      const named = { workspaceId, actorId: actors.viewer }
      const request = { ...named, requestId: newId(), displayName: "x" }
      const [made] = await Promise.allSettled([
        keys.createApiKey(request, admin(workspace)),
        members.removeMember({ ...named, requestId: newId() }, admin(workspace)),
      ])
      if (made.status === "rejected") expect(reasonOf(made.reason)).toBe("NOT_FOUND")
      const { apiKeys } = await keys.listApiKeys(named, admin(workspace))
      expect(apiKeys.filter((key) => key.revokeTime === undefined)).toEqual([])
    }
  })

  test("a key expires by the clock of the database, within the cache's time too", async () => {
    const { workspaceId, actors } = ours
    const path = `/v1/workspaces/${workspaceId}`
    const at = Date.now() + 1_500
    const expireTime = { seconds: BigInt(Math.floor(at / 1000)), nanos: (at % 1000) * 1e6 }
    const request = { workspaceId, actorId: actors.viewer, displayName: "short", expireTime }
    const { secret } = await keys.createApiKey({ ...request, requestId: newId() }, admin(ours))
    expect((await gateway.call(path, { key: secret })).status).toBe(200)
    await until(async () => (await gateway.call(path, { key: secret })).status === 401, {
      timeoutMs: 4_000,
    })
    const past = { ...request, expireTime: { seconds: 1n, nanos: 0 }, requestId: newId() }
    expect(await reasonFrom(keys.createApiKey(past, admin(ours)))).toBe("INVALID_REQUEST")
  })

  test("are listed with their last use, and made only for members", async () => {
    const workspace = await gateway.addWorkspace()
    const { workspaceId, actors } = workspace
    const all = await keys.listApiKeys({ workspaceId, pageSize: 3 }, admin(workspace))
    expect([all.apiKeys.length, all.nextPageToken !== ""]).toEqual([3, true])
    const filter = { workspaceId, actorId: actors.viewer }
    const own = await keys.listApiKeys(filter, admin(workspace))
    expect(own.apiKeys.map((each) => each.actorId)).toEqual([actors.viewer])
    const { pageToken } = { pageToken: all.nextPageToken }
    const foreign = keys.listApiKeys({ ...filter, pageToken }, admin(workspace))
    expect(await reasonFrom(foreign)).toBe("INVALID_PAGE_TOKEN")
    const request = { workspaceId, requestId: newId(), displayName: "x" }
    for (const actorId of [newId(), ours.actors.viewer]) {
      const created = keys.createApiKey({ ...request, actorId }, admin(workspace))
      expect(await reasonFrom(created)).toBe("NOT_FOUND")
    }
    const keyId = (await keys.listApiKeys({ workspaceId: ours.workspaceId }, admin(ours)))
      .apiKeys[0]?.keyId
    const revoked = keys.revokeApiKey(
      { workspaceId, requestId: newId(), keyId: keyId ?? "" },
      admin(workspace),
    )
    expect(await reasonFrom(revoked)).toBe("NOT_FOUND")
  })

  test("a made-up page token is refused, not an error of the database", async () => {
    const { workspaceId } = ours
    const page = await members.listMembers({ workspaceId, pageSize: 1 }, admin(ours))
    const parts = JSON.parse(Buffer.from(page.nextPageToken, "base64url").toString()) as string[]
    const forged = Buffer.from(JSON.stringify([parts[0], "' or 1=1"])).toString("base64url")
    const listed = members.listMembers({ workspaceId, pageToken: forged }, admin(ours))
    expect(await reasonFrom(listed)).toBe("INVALID_PAGE_TOKEN")
  })
})

describe("workspaces", () => {
  test("are made with an admin and a key, once per request", async () => {
    const request = { requestId: newId(), displayName: "Acme", adminDisplayName: "Ann" }
    const made = await workspaces.createWorkspace(request, actingAs(operator))
    const workspaceId = made.workspace?.workspaceId ?? ""
    expect(made.admin).toMatchObject({ workspaceId, displayName: "Ann", role: Role.ADMIN })
    const again = await workspaces.createWorkspace(request, actingAs(operator))
    expect(again).toMatchObject({ workspace: { workspaceId }, secret: "" })
    const other = workspaces.createWorkspace({ ...request, displayName: "B" }, actingAs(operator))
    expect(await reasonFrom(other)).toBe("REQUEST_ID_CONFLICT")
    const listed = await gateway.call("/v1/workspaces", { key: made.secret })
    expect(listed.json).toMatchObject({
      memberships: [{ workspace: { workspaceId }, member: { role: "ROLE_ADMIN" } }],
    })
  })

  test("a chosen id that is taken is refused and nothing changes", async () => {
    const { workspaceId } = ours
    const request = { workspaceId, requestId: newId(), displayName: "X", adminDisplayName: "Eve" }
    const taken = workspaces.createWorkspace(request, actingAs({ ...operator, workspaceId }))
    expect(await reasonFrom(taken)).toBe("ALREADY_EXISTS")
    const { members: left } = await members.listMembers({ workspaceId }, admin(ours))
    expect(left.some((member) => member.displayName === "Eve")).toBe(false)
  })

  test("ensureWorkspace changes nothing the second time, and replaces a revoked key", async () => {
    const workspaceId = newId()
    const actorId = newId()
    const seed = { actorId, displayName: "Ann", role: Role.ADMIN }
    const ensure = async (apiKeySecret?: string) => {
      const member = apiKeySecret === undefined ? seed : { ...seed, apiKeySecret }
      const members = [member]
      const made = await gateway.gateway.ensureWorkspace({ workspaceId, displayName: "D", members })
      return made.secrets.get(actorId) ?? ""
    }
    const secret = await ensure()
    expect(await ensure(secret)).toBe(secret)
    const options = actingAs(memberSubject(workspaceId, actorId, Role.ADMIN))
    const { apiKeys } = await keys.listApiKeys({ workspaceId }, options)
    expect(apiKeys).toHaveLength(1)
    const keyId = apiKeys[0]?.keyId ?? ""
    await keys.revokeApiKey({ workspaceId, keyId, requestId: newId() }, options)
    const fresh = await ensure(secret)
    expect(fresh).not.toBe(secret)
    expect((await gateway.call("/v1/workspaces", { key: fresh })).status).toBe(200)
    await expect(ensure("rw_typo")).rejects.toThrow(/no API key/)
  })
})
