import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ProjectState } from "../../gen/runwarden/projects/v1/project_pb.ts"
import { metadataOf, reasonOf } from "../../mesh/errors.ts"
import { actingAs } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { someone, startProjects } from "./projects-harness.ts"

let mesh: Awaited<ReturnType<typeof startProjects>>
beforeAll(async () => {
  mesh = await startProjects()
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("a project is created as a draft, read, renamed, moved and archived", async () => {
  const member = someone()
  const { workspaceId } = member
  const project = await createProject(member, "Apollo")
  expect(project).toMatchObject({
    name: "Apollo",
    state: ProjectState.DRAFT,
    creator: member.actorId,
  })
  const renamed = await mesh.projects.updateProject(
    { ...once(member), projectId: project.projectId, etag: project.etag, name: "Artemis" },
    actingAs(member),
  )
  expect(renamed.project).toMatchObject({ name: "Artemis", description: "to the moon" })
  expect(renamed.project?.etag).not.toBe(project.etag)
  const active = await mesh.projects.transitionProject(
    { ...once(member), projectId: project.projectId, state: ProjectState.ACTIVE },
    actingAs(member),
  )
  expect(active.project?.state).toBe(ProjectState.ACTIVE)
  const archived = await mesh.projects.archiveProject(
    { ...once(member), projectId: project.projectId },
    actingAs(member),
  )
  const read = await mesh.projects.getProject(
    { workspaceId, projectId: project.projectId },
    actingAs(member),
  )
  expect(read.project).toEqual(archived.project)
  const events = await until(() => {
    const own = mesh.received.events.filter(
      ({ payload }) =>
        payload.case === "resourceChanged" && payload.value.resourceId === project.projectId,
    )
    return own.length === 4 && own
  })
  expect(
    events.map(({ payload }) => payload.case === "resourceChanged" && payload.value.change),
  ).toEqual(["created", "updated", "transitioned", "archived"])
})

test("an illegal step names the states and changes nothing", async () => {
  const member = someone()
  const project = await createProject(member, "Apollo")
  const refused = await failure(
    mesh.projects.transitionProject(
      { ...once(member), projectId: project.projectId, state: ProjectState.COMPLETED },
      actingAs(member),
    ),
  )
  expect(refused).toEqual([
    "ILLEGAL_TRANSITION",
    {
      resource: "project",
      current: "draft",
      requested: "completed",
      allowed: "active, archived",
    },
  ])
  expect(await etagOf(member, project.projectId)).toBe(project.etag)
})

test("an archived project takes no update and no step", async () => {
  const member = someone()
  const { projectId } = await createProject(member, "Apollo")
  await mesh.projects.archiveProject({ ...once(member), projectId }, actingAs(member))
  const attempts = [
    mesh.projects.updateProject({ ...once(member), projectId, name: "x" }, actingAs(member)),
    mesh.projects.archiveProject({ ...once(member), projectId }, actingAs(member)),
    mesh.projects.transitionProject(
      { ...once(member), projectId, state: ProjectState.ACTIVE },
      actingAs(member),
    ),
  ]
  for (const [reason, metadata] of await Promise.all(attempts.map(failure))) {
    expect(reason).toBe("ILLEGAL_TRANSITION")
    expect(metadata).toMatchObject({ current: "archived", allowed: "" })
  }
})

test("of concurrent updates with one etag exactly one holds, and a stale etag is refused", async () => {
  const member = someone()
  const { projectId, etag } = await createProject(member, "Apollo")
  const attempts = await Promise.allSettled(
    Array.from({ length: 12 }, (_, index) =>
      mesh.projects.updateProject(
        { ...once(member), projectId, etag, name: `name ${index}` },
        actingAs(member),
      ),
    ),
  )
  const refused = attempts.filter((attempt) => attempt.status === "rejected")
  expect(refused.map((attempt) => reasonOf(attempt.reason))).toEqual(
    Array(11).fill("ETAG_MISMATCH"),
  )
})

test("the same request again gets the same answer; another body under its id is refused", async () => {
  const member = someone()
  const request = { ...once(member), name: "Apollo", description: "" }
  const answers = await Promise.all(
    Array.from({ length: 4 }, () => mesh.projects.createProject(request, actingAs(member))),
  )
  for (const answer of answers) expect(answer).toEqual(answers[0])
  const [reason] = await failure(
    mesh.projects.createProject({ ...request, name: "Artemis" }, actingAs(member)),
  )
  expect(reason).toBe("REQUEST_ID_CONFLICT")
  expect(await namesOf(member)).toEqual(["Apollo"])
})

test("a replay is answered after the project has gone on", async () => {
  const member = someone()
  const { projectId, etag } = await createProject(member, "Apollo")
  const request = { ...once(member), projectId, etag, name: "Artemis" }
  const first = await mesh.projects.updateProject(request, actingAs(member))
  await mesh.projects.archiveProject({ ...once(member), projectId }, actingAs(member))
  expect(await mesh.projects.updateProject(request, actingAs(member))).toEqual(first)
})

test("another workspace's project is as if it did not exist", async () => {
  const owner = someone()
  const stranger = someone()
  const { projectId } = await createProject(owner, "Apollo")
  const missing = newId()
  for (const id of [projectId, missing]) {
    const attempts = [
      mesh.projects.getProject(
        { workspaceId: stranger.workspaceId, projectId: id },
        actingAs(stranger),
      ),
      mesh.projects.updateProject(
        { ...once(stranger), projectId: id, name: "mine" },
        actingAs(stranger),
      ),
      mesh.projects.archiveProject({ ...once(stranger), projectId: id }, actingAs(stranger)),
      mesh.projects.transitionProject(
        { ...once(stranger), projectId: id, state: ProjectState.ACTIVE },
        actingAs(stranger),
      ),
    ]
    for (const answer of await Promise.all(attempts.map(failure))) {
      expect(answer).toEqual(["NOT_FOUND", { resource: "project", id }])
    }
  }
  const [reason] = await failure(
    mesh.projects.getProject({ workspaceId: owner.workspaceId, projectId }, actingAs(stranger)),
  )
  expect(reason).toBe("WORKSPACE_MISMATCH")
  expect(await namesOf(stranger)).toEqual([])
})

test("a viewer reads and changes nothing", async () => {
  const member = someone()
  const viewer = someone(Role.VIEWER, member.workspaceId)
  const { projectId } = await createProject(member, "Apollo")
  expect(await namesOf(viewer)).toEqual(["Apollo"])
  const attempts = [
    mesh.projects.createProject({ ...once(viewer), name: "x" }, actingAs(viewer)),
    mesh.projects.updateProject({ ...once(viewer), projectId, name: "x" }, actingAs(viewer)),
    mesh.projects.archiveProject({ ...once(viewer), projectId }, actingAs(viewer)),
  ]
  for (const [reason] of await Promise.all(attempts.map(failure)))
    expect(reason).toBe("ROLE_TOO_LOW")
})

test("a list pages newest first, by state, and refuses a token of other filters", async () => {
  const member = someone()
  const { workspaceId } = member
  const created = ["a", "b", "c", "d", "e"]
  for (const name of created) await createProject(member, name)
  const first = await mesh.projects.listProjects({ workspaceId, pageSize: 3 }, actingAs(member))
  const second = await mesh.projects.listProjects(
    { workspaceId, pageSize: 3, pageToken: first.nextPageToken },
    actingAs(member),
  )
  const names = [...first.projects, ...second.projects].map(({ name }) => name)
  expect(names).toEqual(created.toReversed())
  expect(second.nextPageToken).toBe("")
  const drafts = { workspaceId, state: ProjectState.DRAFT }
  expect((await mesh.projects.listProjects(drafts, actingAs(member))).projects).toHaveLength(5)
  const active = { workspaceId, state: ProjectState.ACTIVE }
  expect((await mesh.projects.listProjects(active, actingAs(member))).projects).toEqual([])
  const forged = Buffer.from(
    JSON.stringify([fingerprintOf(first.nextPageToken), "'; drop table projects"]),
  ).toString("base64url")
  for (const pageToken of [first.nextPageToken, "nonsense", forged]) {
    const filters = pageToken === first.nextPageToken ? drafts : { workspaceId }
    const list = mesh.projects.listProjects({ ...filters, pageToken }, actingAs(member))
    expect((await failure(list))[0]).toBe("INVALID_PAGE_TOKEN")
  }
})

test("what breaks the schema is refused and names the field", async () => {
  const member = someone()
  const { projectId } = await createProject(member, "Apollo")
  const attempts = [
    mesh.projects.createProject({ ...once(member), name: "" }, actingAs(member)),
    mesh.projects.updateProject({ ...once(member), projectId }, actingAs(member)),
    mesh.projects.transitionProject(
      { ...once(member), projectId, state: ProjectState.ARCHIVED },
      actingAs(member),
    ),
    mesh.projects.createProject({ ...once(member), requestId: "no", name: "x" }, actingAs(member)),
  ]
  for (const [reason] of await Promise.all(attempts.map(failure)))
    expect(reason).toBe("INVALID_REQUEST")
})

type Someone = ReturnType<typeof someone>

function once({ workspaceId }: Someone) {
  return { workspaceId, requestId: newId() }
}

async function createProject(who: Someone, name: string) {
  const { project } = await mesh.projects.createProject(
    { ...once(who), name, description: "to the moon" },
    actingAs(who),
  )
  if (project === undefined) throw new Error("no project in the answer")
  return project
}

async function etagOf(who: Someone, projectId: string) {
  const { workspaceId } = who
  return (await mesh.projects.getProject({ workspaceId, projectId }, actingAs(who))).project?.etag
}

async function namesOf(who: Someone) {
  const { workspaceId } = who
  const { projects } = await mesh.projects.listProjects({ workspaceId }, actingAs(who))
  return projects.map(({ name }) => name)
}

function fingerprintOf(token: string): unknown {
  return JSON.parse(Buffer.from(token, "base64url").toString())[0]
}

async function failure(attempt: Promise<unknown>) {
  const error = await attempt.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  )
  return [reasonOf(error), metadataOf(error)] as const
}
