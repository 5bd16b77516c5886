import { createHash } from "node:crypto"
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { metadataOf, RunwardenError, reasonOf } from "../../mesh/errors.ts"
import { actingAs } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { someone, startProjects } from "./projects-harness.ts"

let mesh: Awaited<ReturnType<typeof startProjects>>
beforeAll(async () => {
  mesh = await startProjects()
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("a document is filed, read with its text, changed, listed and deleted", async () => {
  const member = someone()
  const { workspaceId } = member
  const project = await createProject(member)
  const text = "# Grüße\n\nan alle 🌍\n"
  const created = await createDocument(member, {
    projectId: project,
    content: text,
    metadata: { source: "test" },
  })
  expect(created).toMatchObject({
    projectId: project,
    mediaType: "text/markdown",
    content: "",
    contentBytes: Buffer.byteLength(text),
    contentSha256: createHash("sha256").update(text).digest("hex"),
    metadata: { source: "test" },
    version: 1n,
    creator: member.actorId,
  })
  const { documentId } = created
  const read = await mesh.documents.getDocument({ workspaceId, documentId }, actingAs(member))
  expect(read.document).toEqual({ ...created, content: text })
  const updated = await mesh.documents.updateDocument(
    { ...once(member), documentId, etag: created.etag, title: "Better" },
    actingAs(member),
  )
  expect(updated.document).toMatchObject({ title: "Better", version: 2n, metadata: {} })
  await createDocument(member, {})
  const listed = (request: object) =>
    mesh.documents.listDocuments({ workspaceId, ...request }, actingAs(member))
  expect((await listed({})).documents).toHaveLength(2)
  expect((await listed({ projectId: project })).documents).toEqual([updated.document])
  await mesh.documents.deleteDocument({ ...once(member), documentId }, actingAs(member))
  expect((await listed({ projectId: project })).documents).toEqual([])
})

test("every version reaches retrieval in order, and the deletion as a version of its own", async () => {
  const member = someone()
  const { documentId } = await createDocument(member, { content: "one" })
  for (const content of ["two", "three"]) {
    await mesh.documents.updateDocument({ ...once(member), documentId, content }, actingAs(member))
  }
  await mesh.documents.deleteDocument({ ...once(member), documentId }, actingAs(member))
  const seen = await indexedOf(documentId, 4)
  expect(seen.map(({ version }) => version)).toEqual([1n, 2n, 3n, 4n])
  expect(seen.map((request) => ("content" in request ? request.content : "deleted"))).toEqual([
    "one",
    "two",
    "three",
    "deleted",
  ])
  expect(new Set(seen.map(({ requestId }) => requestId)).size).toBe(4)
  expect(seen.every(({ workspaceId }) => workspaceId === member.workspaceId)).toBe(true)
})

test("an index that is away gets the same request later; one that refuses holds nobody up", async () => {
  const member = someone()
  mesh.received.refusals.push(
    new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "database" }),
  )
  const late = await createDocument(member, { content: "late" })
  expect(await indexedOf(late.documentId, 1)).toHaveLength(1)
  mesh.received.refusals.push(
    new RunwardenError("UNSUPPORTED_MEDIA_TYPE", { media_type: "x", supported: "y" }),
  )
  const refused = await createDocument(member, { content: "refused" })
  const after = await createDocument(member, { content: "after" })
  expect(await indexedOf(after.documentId, 1)).toHaveLength(1)
  expect(mesh.received.indexed.some((r) => r.documentId === refused.documentId)).toBe(false)
})

test("a document cannot be filed into a missing, foreign or archived project", async () => {
  const member = someone()
  const stranger = someone()
  const foreign = await createProject(stranger)
  for (const projectId of [newId(), foreign]) {
    const [reason, metadata] = await failure(createDocument(member, { projectId }))
    expect([reason, metadata]).toEqual(["NOT_FOUND", { resource: "project", id: projectId }])
  }
  const archived = await createProject(member)
  const filed = await createDocument(member, { projectId: archived })
  await mesh.projects.archiveProject({ ...once(member), projectId: archived }, actingAs(member))
  expect((await failure(createDocument(member, { projectId: archived })))[0]).toBe(
    "ILLEGAL_TRANSITION",
  )
  const { documentId } = filed
  const update = { ...once(member), documentId, title: "x" }
  expect((await failure(mesh.documents.updateDocument(update, actingAs(member))))[0]).toBe(
    "ILLEGAL_TRANSITION",
  )
  await mesh.documents.deleteDocument({ ...once(member), documentId }, actingAs(member))
})

test("another workspace's document is as if it did not exist", async () => {
  const stranger = someone()
  const { documentId: foreign } = await createDocument(someone(), {})
  for (const documentId of [foreign, newId()]) {
    const { workspaceId } = stranger
    const attempts = [
      mesh.documents.getDocument({ workspaceId, documentId }, actingAs(stranger)),
      mesh.documents.updateDocument(
        { ...once(stranger), documentId, title: "mine" },
        actingAs(stranger),
      ),
      mesh.documents.deleteDocument({ ...once(stranger), documentId }, actingAs(stranger)),
    ]
    for (const answer of await Promise.all(attempts.map(failure))) {
      expect(answer).toEqual(["NOT_FOUND", { resource: "document", id: documentId }])
    }
  }
})

test("a stale etag is refused for an update and for a deletion", async () => {
  const member = someone()
  const { documentId, etag } = await createDocument(member, {})
  await mesh.documents.updateDocument({ ...once(member), documentId, title: "x" }, actingAs(member))
  const attempts = [
    mesh.documents.updateDocument(
      { ...once(member), documentId, etag, title: "y" },
      actingAs(member),
    ),
    mesh.documents.deleteDocument({ ...once(member), documentId, etag }, actingAs(member)),
  ]
  for (const [reason] of await Promise.all(attempts.map(failure)))
    expect(reason).toBe("ETAG_MISMATCH")
})

test("a deletion that is sent again is answered, though the document is gone", async () => {
  const member = someone()
  const { documentId } = await createDocument(member, {})
  const request = { ...once(member), documentId }
  await mesh.documents.deleteDocument(request, actingAs(member))
  await mesh.documents.deleteDocument(request, actingAs(member))
  const [reason] = await failure(
    mesh.documents.deleteDocument({ ...request, ...once(member) }, actingAs(member)),
  )
  expect(reason).toBe("NOT_FOUND")
})

test("limits hold: text, metadata, media type", async () => {
  const member = someone()
  const attempts = [
    createDocument(member, { content: "x".repeat(1_000_001) }),
    createDocument(member, { metadata: { long: "x".repeat(16_384) } }),
    createDocument(member, { mediaType: "application/pdf" }),
    createDocument(member, { title: "" }),
  ]
  for (const [reason] of await Promise.all(attempts.map(failure)))
    expect(reason).toBe("INVALID_REQUEST")
  const largest = await createDocument(member, { content: "x".repeat(1_000_000) })
  expect(largest.contentBytes).toBe(1_000_000)
})

test("a viewer reads and changes nothing", async () => {
  const member = someone()
  const viewer = someone(Role.VIEWER, member.workspaceId)
  const { documentId } = await createDocument(member, { content: "text" })
  const { workspaceId } = viewer
  const read = await mesh.documents.getDocument({ workspaceId, documentId }, actingAs(viewer))
  expect(read.document?.content).toBe("text")
  const attempts = [
    createDocument(viewer, {}),
    mesh.documents.updateDocument({ ...once(viewer), documentId, title: "x" }, actingAs(viewer)),
    mesh.documents.deleteDocument({ ...once(viewer), documentId }, actingAs(viewer)),
  ]
  for (const [reason] of await Promise.all(attempts.map(failure)))
    expect(reason).toBe("ROLE_TOO_LOW")
})

type Someone = ReturnType<typeof someone>

function once({ workspaceId }: Someone) {
  return { workspaceId, requestId: newId() }
}

async function createProject(who: Someone): Promise<string> {
  const answer = await mesh.projects.createProject({ ...once(who), name: "P" }, actingAs(who))
  return answer.project?.projectId ?? ""
}

async function createDocument(
  who: Someone,
  fields: {
    readonly projectId?: string
    readonly title?: string
    readonly mediaType?: string
    readonly content?: string
    readonly metadata?: Record<string, string>
  },
) {
  const request = { ...once(who), title: "Notes", ...fields }
  const { document } = await mesh.documents.createDocument(request, actingAs(who))
  if (document === undefined) throw new Error("no document in the answer")
  return document
}

function indexedOf(documentId: string, count: number) {
  return until(() => {
    const own = mesh.received.indexed.filter((request) => request.documentId === documentId)
    return own.length >= count && own
  })
}

async function failure(attempt: Promise<unknown>) {
  const error = await attempt.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  )
  return [reasonOf(error), metadataOf(error)] as const
}
