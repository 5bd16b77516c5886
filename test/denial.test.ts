// Who is turned away: at the gateway, and at each service's own port for whoever gets past it.
import { randomUUID } from "node:crypto"
import { create, toBinary } from "@bufbuild/protobuf"
import * as grpc from "@grpc/grpc-js"
import { SignJWT } from "jose"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { MembershipService } from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { createSigner } from "../mesh/hop-tokens.ts"
import { memberSubject, type ServiceName, serviceNames } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { generateMeshKeys } from "../mesh/keys.ts"
import { testKeys } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let ours: TestWorkspace
let theirs: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh({ wire: "grpc" })
  ours = await mesh.addWorkspace()
  theirs = await mesh.addWorkspace()
})
afterAll(() => mesh?.[Symbol.asyncDispose]())

function rest(path: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${mesh.url}${path}`, { headers })
}

function bearer(apiKey: string): Record<string, string> {
  return { authorization: `Bearer ${apiKey}` }
}

/** An answer without the id that was asked for: what is left must not tell two cases apart. */
async function withoutIds(answer: Response): Promise<unknown> {
  const body = (await answer.json()) as { details: { value?: string }[] }
  for (const detail of body.details) delete detail.value
  return JSON.parse(JSON.stringify(body).replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "<id>"))
}

const readPaths = ["/ai/runs", "/ai/tool-calls", "/metrics/ai", "/alerts/ai"]

describe("the gateway", () => {
  test.each(readPaths)("%s answers members only", async (path) => {
    const query = `?workspace_id=${ours.workspaceId}`
    const missing = await rest(path + query)
    expect(missing.status).toBe(401)
    expect(await missing.text()).toContain("UNAUTHENTICATED")

    const stranger = await rest(path + query, bearer(theirs.admin.apiKey))
    expect(stranger.status).toBe(403)
    const nowhere = await rest(`${path}?workspace_id=${newId()}`, bearer(theirs.admin.apiKey))
    expect(nowhere.status).toBe(403)
    expect(await withoutIds(stranger)).toEqual(await withoutIds(nowhere))

    const member = await rest(path + query, bearer(ours.viewer.apiKey))
    expect(member.status).toBe(200)
  })

  test.each([
    "",
    "Bearer",
    "Bearer x",
    "Basic dXNlcjpwYXNz",
    `Bearer rw_${"a".repeat(60)}`,
    "Bearer null",
    "Bearer ../../etc/passwd",
  ])("a credential like %j gets the one answer", async (authorization) => {
    const answer = await rest(`/ai/runs?workspace_id=${ours.workspaceId}`, { authorization })
    expect(answer.status).toBe(401)
  })

  test("a viewer changes nothing, a member manages nobody", async () => {
    const { workspaceId } = ours
    const created = mesh.client(ProjectService, ours.viewer).createProject({
      workspaceId,
      requestId: newId(),
      name: "No",
    })
    await expect(created).rejects.toSatisfy((error) => reasonOf(error) === "ROLE_TOO_LOW")
    const added = mesh.client(MembershipService, ours.member).addMember({
      workspaceId,
      requestId: newId(),
      displayName: "Me again",
      role: Role.ADMIN,
      kind: 1,
    })
    await expect(added).rejects.toSatisfy((error) => reasonOf(error) === "ROLE_TOO_LOW")
  })

  test("identity headers from outside change nothing", async () => {
    const forged = await signAs("gateway", theirs)
    const names = [
      "runwarden-identity",
      "x-runwarden-identity",
      "x-workspace-id",
      "x-tenant-id",
      "x-user-id",
      "x-actor-id",
      "x-role",
      "x-internal",
      "x-forwarded-user",
      "x-forwarded-for",
      "x-forwarded-host",
      "x-original-user",
      "grpc-metadata-runwarden-identity",
      "grpc-metadata-x-user-id",
      "x-real-ip",
      "forwarded",
    ]
    const values = [forged, theirs.workspaceId, theirs.admin.actorId, "admin", "true"]
    const path = `/v1/workspaces/${theirs.workspaceId}/projects`
    for (const name of names) {
      for (const value of values) {
        const noKey = await rest(path, { [name]: value })
        expect([name, noKey.status]).toEqual([name, 401])
        const ourKey = await rest(path, { ...bearer(ours.viewer.apiKey), [name]: value })
        expect([name, ourKey.status]).toEqual([name, 403])
      }
    }
  })

  test("a member who was removed is out at once", async () => {
    const extra = await mesh.addWorkspace()
    const { workspaceId } = extra
    const asMember = mesh.client(ProjectService, extra.member)
    await asMember.listProjects({ workspaceId })
    await mesh
      .client(MembershipService, extra.admin)
      .removeMember({ workspaceId, requestId: newId(), actorId: extra.member.actorId })
    const after = await asMember.listProjects({ workspaceId }).catch(reasonOf)
    expect(["UNAUTHENTICATED", "NOT_A_MEMBER"]).toContain(after)
  })
})

/** A token that this service signs for the admin of a workspace. */
async function signAs(
  service: ServiceName,
  workspace: TestWorkspace,
  keys = testKeys,
  audience: ServiceName = "projects",
): Promise<string> {
  const key = keys.private.get(service)
  if (key === undefined) throw new Error("no key")
  const { workspaceId, admin } = workspace
  return createSigner(service, key).sign(
    memberSubject(workspaceId, admin.actorId, Role.ADMIN),
    audience,
  )
}

/** A public method of each service that has one, and one that is internal. */
const doors: Readonly<Record<ServiceName, string>> = {
  gateway: "runwarden.gateway.v1.MembershipService/CheckMembership",
  orchestrator: "runwarden.orchestrator.v1.RunService/ListRuns",
  tools: "runwarden.tools.v1.ExecutionService/Execute",
  moderation: "runwarden.moderation.v1.ModerationService/Moderate",
  retrieval: "runwarden.retrieval.v1.SearchService/Search",
  telemetry: "runwarden.telemetry.v1.EventService/RecordEvents",
  projects: "runwarden.projects.v1.ProjectService/ListProjects",
}

describe.each(serviceNames)("the own port of %s", (service) => {
  async function knock(metadata: Record<string, string>): Promise<number> {
    const client = new grpc.Client(mesh.mesh.address(service), grpc.credentials.createInsecure())
    const { listProjects } = ProjectService.method
    const bytes = toBinary(
      listProjects.input,
      create(listProjects.input, { workspaceId: ours.workspaceId }),
    )
    const headers = new grpc.Metadata()
    for (const [name, value] of Object.entries(metadata)) headers.set(name, value)
    try {
      return await new Promise((resolve) => {
        client.makeUnaryRequest(
          `/${doors[service]}`,
          () => Buffer.from(bytes),
          () => ({}),
          {},
          headers,
          { deadline: Date.now() + 5_000 },
          (error) => resolve(error?.code ?? 0),
        )
      })
    } finally {
      client.close()
    }
  }

  test("answers nobody without a token", async () => {
    expect(await knock({})).toBe(grpc.status.UNAUTHENTICATED)
  })

  test("takes no API key and no header for one", async () => {
    for (const name of ["authorization", "x-user-id", "x-workspace-id", "x-forwarded-user"]) {
      expect(await knock({ [name]: `Bearer ${ours.admin.apiKey}` })).toBe(
        grpc.status.UNAUTHENTICATED,
      )
    }
  })

  test("takes no token that is made for another service, by another key, or by nobody", async () => {
    const otherAudience: ServiceName = service === "projects" ? "tools" : "projects"
    const stranger = generateMeshKeys()
    const tokens = [
      await signAs("gateway", ours, testKeys, otherAudience),
      await signAs("gateway", ours, stranger, service),
      await new SignJWT({ iss: "gateway", aud: service, ws: ours.workspaceId, kind: "member" })
        .setProtectedHeader({ alg: "HS256" })
        .sign(new Uint8Array(32)),
      randomUUID(),
    ]
    for (const token of tokens) {
      expect(await knock({ "runwarden-identity": token })).toBe(grpc.status.UNAUTHENTICATED)
    }
  })

  test("refuses a service that may not call it, though its token is good", async () => {
    const stranger: ServiceName = service === "moderation" ? "projects" : "telemetry"
    const token = await signAs(stranger, ours, testKeys, service)
    expect(await knock({ "runwarden-identity": token })).toBe(grpc.status.PERMISSION_DENIED)
  })

  test("refuses a token whose workspace is not the request's", async () => {
    const issuer: ServiceName = ["gateway", "tools", "moderation"].includes(service)
      ? "orchestrator"
      : service === "telemetry"
        ? "projects"
        : "gateway"
    const token = await signAs(issuer, theirs, testKeys, service)
    expect(await knock({ "runwarden-identity": token })).toBe(grpc.status.PERMISSION_DENIED)
  })
})
