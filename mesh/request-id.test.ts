import { create } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ProjectSchema } from "../gen/runwarden/projects/v1/project_pb.ts"
import {
  ArchiveProjectRequestSchema,
  CreateProjectRequestSchema,
  type CreateProjectResponse,
  CreateProjectResponseSchema,
  ProjectService,
} from "../gen/runwarden/projects/v1/project_service_pb.ts"
import type { Database, Tx } from "./database.ts"
import { RunwardenError, reasonOf } from "./errors.ts"
import { addNote, asAdmin, countNotes, openNotes } from "./fixtures/notes-database.ts"
import { newId } from "./ids.ts"
import { answerOnce } from "./request-id.ts"

let notes: Awaited<ReturnType<typeof openNotes>>
let database: Database

beforeAll(async () => {
  notes = await openNotes()
  database = notes.database
})
afterAll(() => notes[Symbol.asyncDispose]())

const { createProject, archiveProject } = ProjectService.method

function newRequest(workspaceId = newId(), name = "apollo") {
  return create(CreateProjectRequestSchema, { workspaceId, requestId: newId(), name })
}

/** An effect whose answer differs every time that it is really had. */
async function effect(tx: Tx, workspaceId: string): Promise<CreateProjectResponse> {
  const projectId = await addNote(tx, workspaceId)
  return create(CreateProjectResponseSchema, { project: create(ProjectSchema, { projectId }) })
}

function send(request: ReturnType<typeof newRequest>): Promise<CreateProjectResponse> {
  return answerOnce(database, createProject, request, (tx) => effect(tx, request.workspaceId))
}

test("64 equal requests at once have one effect and one answer", async () => {
  const request = newRequest()
  const answers = await Promise.all(Array.from({ length: 64 }, () => send(request)))
  expect(new Set(answers.map((answer) => answer.project?.projectId)).size).toBe(1)
  expect(await countNotes(database, request.workspaceId)).toBe(1)
})

test("a repetition gets the first answer, also when its work now fails", async () => {
  const request = newRequest()
  const first = await send(request)
  expect(await send(request)).toEqual(first)
  const failing = answerOnce(database, createProject, request, () =>
    Promise.reject(new RunwardenError("ALREADY_EXISTS", { resource: "project", id: "x" })),
  )
  expect(await failing).toEqual(first)
})

test("another body, or another RPC, under the same id is refused and changes nothing", async () => {
  const request = newRequest()
  await send(request)
  const other = create(CreateProjectRequestSchema, { ...request, name: "gemini" })
  await expect(send(other)).rejects.toSatisfy((e) => reasonOf(e) === "REQUEST_ID_CONFLICT")
  const { workspaceId, requestId } = request
  const archive = create(ArchiveProjectRequestSchema, { workspaceId, requestId })
  const archiving = answerOnce(database, archiveProject, archive, async (tx) => {
    await addNote(tx, workspaceId)
    return create(archiveProject.output)
  })
  await expect(archiving).rejects.toSatisfy((e) => reasonOf(e) === "REQUEST_ID_CONFLICT")
  expect(await countNotes(database, workspaceId)).toBe(1)
})

test("a request that failed leaves nothing, and may be sent again", async () => {
  const request = newRequest()
  const failing = answerOnce(database, createProject, request, async (tx) => {
    await effect(tx, request.workspaceId)
    throw new RunwardenError("LAST_ADMIN")
  })
  await expect(failing).rejects.toSatisfy((error) => reasonOf(error) === "LAST_ADMIN")
  expect(await countNotes(database, request.workspaceId)).toBe(0)
  await send(request)
  expect(await countNotes(database, request.workspaceId)).toBe(1)
})

test("the same id in another workspace is another request", async () => {
  const request = newRequest()
  const elsewhere = create(CreateProjectRequestSchema, { ...request, workspaceId: newId() })
  await send(request)
  await send(elsewhere)
  expect(await countNotes(database, elsewhere.workspaceId)).toBe(1)
})

test("a secret is answered once and not kept", async () => {
  const request = newRequest()
  const keep = () => create(CreateProjectResponseSchema)
  const work = (tx: Tx) => effect(tx, request.workspaceId)
  const first = await answerOnce(database, createProject, request, work, { keep })
  expect(first.project).toBeDefined()
  const again = await answerOnce(database, createProject, request, work, { keep })
  expect(again.project).toBeUndefined()
})

describe("answers of more than 30 days ago", () => {
  const pruner = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a00"
  const left = (workspaceId: string) =>
    database.tenant(workspaceId, (tx) =>
      tx.query<{ method: string }>("select method from requests order by method"),
    )
  async function answeredBefore(workspaceId: string, days: number, count: number): Promise<void> {
    await asAdmin(
      notes.config,
      `insert into requests (workspace_id, request_id, method, request_sha256, response, create_time)
       select '${workspaceId}', gen_random_uuid(), '${days} days', '', '',
         now() - interval '${days} days' from generate_series(1, ${count})`,
    )
  }

  test("go with new ones, a bounded number at a time, and only in their workspace", async () => {
    const [ours, theirs] = [newId(), newId()]
    await answeredBefore(ours, 31, 300)
    await answeredBefore(ours, 29, 2)
    await answeredBefore(theirs, 31, 2)
    await send(create(CreateProjectRequestSchema, { workspaceId: ours, requestId: pruner }))
    expect(await left(ours)).toHaveLength(300 - 256 + 2 + 1)
    await send({ ...newRequest(ours), requestId: pruner.replace(/00$/, "40") })
    expect((await left(ours)).filter((row) => row.method === "31 days")).toHaveLength(0)
    expect(await left(ours)).toHaveLength(2 + 2)
    expect(await left(theirs)).toHaveLength(2)
  })

  test("keep no other request waiting that takes them away too", async () => {
    const ours = newId()
    await answeredBefore(ours, 31, 500)
    const ids = Array.from({ length: 8 }, () => newId().replace(/..$/, "80"))
    await Promise.all(ids.map((requestId) => send({ ...newRequest(ours), requestId })))
    expect((await left(ours)).filter((row) => row.method !== "31 days")).toHaveLength(8)
  })
})
