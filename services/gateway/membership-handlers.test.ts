import fc from "fast-check"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ActorKind } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { testClient } from "../../mesh/testing.ts"
import { startGateway, type TestGateway, type TestWorkspace } from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let members: ReturnType<typeof testClient<typeof MembershipService>>

beforeAll(async () => {
  gateway = await startGateway()
  ours = await gateway.addWorkspace()
  members = testClient(MembershipService, gateway.target)
})
afterAll(() => gateway[Symbol.asyncDispose]())

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

describe("members", () => {
  test("are added, read, listed in pages, updated and removed", async () => {
    const workspace = await gateway.addWorkspace()
    const { workspaceId } = workspace
    const { member } = await addMember(workspace, Role.VIEWER)
    expect(member).toMatchObject({
      workspaceId,
      role: Role.VIEWER,
      kind: ActorKind.USER,
      etag: "1",
    })
    const actorId = member?.actorId ?? ""
    const seen: string[] = []
    let pageToken = ""
    do {
      const page = await members.listMembers(
        { workspaceId, pageSize: 2, pageToken },
        admin(workspace),
      )
      seen.push(...page.members.map((each) => each.actorId))
      pageToken = page.nextPageToken
    } while (pageToken !== "")
    expect(seen.toSorted()).toEqual([...Object.values(workspace.actors), actorId].toSorted())
    const named = { workspaceId, requestId: newId(), actorId }
    const change = { ...named, etag: "1", displayName: "Renamed", role: Role.MEMBER }
    const updated = await members.updateMember(change, admin(workspace))
    expect(updated.member).toMatchObject({ displayName: "Renamed", role: Role.MEMBER, etag: "2" })
    const stale = { ...change, requestId: newId() }
    expect(await reasonFrom(members.updateMember(stale, admin(workspace)))).toBe("ETAG_MISMATCH")
    const removal = { workspaceId, requestId: newId(), actorId }
    expect(await members.removeMember(removal, admin(workspace))).toMatchObject({ revokedKeys: 0 })
    // The same request again is the same answer, not NOT_FOUND.
    expect(await members.removeMember(removal, admin(workspace))).toMatchObject({ revokedKeys: 0 })
    const read = members.getMember({ workspaceId, actorId }, admin(workspace))
    expect(await reasonFrom(read)).toBe("NOT_FOUND")
  })

  test("a repeated request adds one member; another body under its id is refused", async () => {
    const requestId = newId()
    const answers = await Promise.all(
      Array.from({ length: 16 }, () => addMember(ours, Role.VIEWER, requestId)),
    )
    expect(new Set(answers.map(({ member }) => member?.actorId)).size).toBe(1)
    const other = addMember(ours, Role.ADMIN, requestId)
    expect(await reasonFrom(other)).toBe("REQUEST_ID_CONFLICT")
  })

  test("the last admin can neither be demoted nor removed", async () => {
    const workspace = await gateway.addWorkspace()
    const { workspaceId, actors } = workspace
    const named = { workspaceId, actorId: actors.admin }
    for (const role of [Role.VIEWER, Role.MEMBER, Role.APPROVER]) {
      const demotion = members.updateMember(
        { ...named, requestId: newId(), role },
        admin(workspace),
      )
      expect(await reasonFrom(demotion)).toBe("LAST_ADMIN")
    }
    const removal = members.removeMember({ ...named, requestId: newId() }, admin(workspace))
    expect(await reasonFrom(removal)).toBe("LAST_ADMIN")
    const renamed = { ...named, requestId: newId(), displayName: "Still admin", role: Role.ADMIN }
    expect(await reasonFrom(members.updateMember(renamed, admin(workspace)))).toBe("none")
  })

  test("of many admins that leave at once, one stays", async () => {
    const workspace = await gateway.addWorkspace()
    const { workspaceId, actors } = workspace
    const added = await Promise.all(
      Array.from({ length: 5 }, () => addMember(workspace, Role.ADMIN)),
    )
    const all = [actors.admin, ...added.map(({ member }) => member?.actorId ?? "")]
    const outcomes = await Promise.all(
      all.map((actorId, index) => {
        const named = { workspaceId, actorId, requestId: newId() }
        const work =
          index % 2 === 0
            ? members.removeMember(named, admin(workspace))
            : members.updateMember({ ...named, role: Role.VIEWER }, admin(workspace))
        return reasonFrom(work)
      }),
    )
    expect(outcomes.toSorted()).toEqual(["LAST_ADMIN", "none", "none", "none", "none", "none"])
  })

  test("any sequence of changes leaves an admin", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ who: fc.nat(3), role: fc.constantFrom(0, 1, 2, 3, 4) }), {
          maxLength: 12,
        }),
        async (steps) => {
          const workspace = await gateway.addWorkspace()
          const { workspaceId, actors } = workspace
          const all = Object.values(actors)
          for (const { who, role } of steps) {
            const named = { workspaceId, actorId: all[who] ?? "", requestId: newId() }
            const work =
              role === 0
                ? members.removeMember(named, admin(workspace))
                : members.updateMember({ ...named, role: role as Role }, admin(workspace))
            expect(["none", "LAST_ADMIN", "NOT_FOUND"]).toContain(await reasonFrom(work))
          }
          const left = await members.listMembers({ workspaceId }, admin(workspace))
          expect(left.members.some((member) => member.role === Role.ADMIN)).toBe(true)
        },
      ),
      { seed: 5, numRuns: 15 },
    )
  })

  test("CheckMembership answers the orchestrator, for this workspace alone", async () => {
    const asOrchestrator = testClient(MembershipService, gateway.target, "orchestrator")
    const asTools = testClient(MembershipService, gateway.target, "tools")
    const options = actingAs(serviceSubject("orchestrator", ours.workspaceId))
    const other = await gateway.addWorkspace()
    const { workspaceId } = ours
    const ask = (actorId: string) =>
      asOrchestrator.checkMembership({ workspaceId, actorId }, options)
    expect(await ask(ours.actors.approver)).toMatchObject({ member: true, role: Role.APPROVER })
    expect(await ask(other.actors.approver)).toMatchObject({
      member: false,
      role: Role.UNSPECIFIED,
    })
    expect(await ask(newId())).toMatchObject({ member: false })
    const request = { workspaceId, actorId: ours.actors.admin }
    const asStranger = asTools.checkMembership(
      request,
      actingAs(serviceSubject("tools", workspaceId)),
    )
    expect(await reasonFrom(asStranger)).toBe("CALLER_NOT_ALLOWED")
  })
})
