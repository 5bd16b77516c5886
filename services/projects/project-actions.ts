/**
 * What can be done with projects, inside a transaction that the caller opened: by an RPC or by a
 * tool alike. Every change is told to telemetry in the same transaction.
 */
import type { Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { recordEvents } from "../../mesh/events.ts"
import { newId } from "../../mesh/ids.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import {
  assertChangeable,
  initialState,
  type ProjectEvent,
  type ProjectState,
  transition,
} from "./project.ts"
import type { ProjectRow } from "./project-store.ts"
import * as store from "./project-store.ts"

/** For whom a change is made, and the run that makes it where it is a tool call. */
export interface Author {
  readonly actorId: string
  readonly runId?: string
}

/** The list sizes that the contract documents. */
export const pageSizes = { default: 50, max: 200 } as const

export async function createProject(
  tx: Tx,
  author: Author,
  input: { readonly name: string; readonly description: string },
): Promise<ProjectRow> {
  const project = await store.insertProject(tx, {
    projectId: newId(),
    name: input.name,
    description: input.description,
    state: initialState,
    creator: author.actorId,
  })
  await recordChange(tx, author, "project", project.projectId, "created")
  return project
}

export async function getProject(tx: Tx, projectId: string): Promise<ProjectRow> {
  return (await store.findProject(tx, projectId)) ?? raise(notFound("project", projectId))
}

export async function listProjects(
  tx: Tx,
  request: {
    readonly state: ProjectState | undefined
    readonly pageSize: number
    readonly pageToken: string
  },
): Promise<{ readonly projects: readonly ProjectRow[]; readonly nextPageToken: string }> {
  const filters = { list: "projects", state: request.state ?? "" }
  const page = readPage(request, filters, pageSizes)
  const rows = await store.listProjects(tx, { state: request.state }, page)
  const projects = rows.slice(0, page.limit)
  const last = projects.at(-1)
  const isLast = rows.length <= page.limit || last === undefined
  return { projects, nextPageToken: isLast ? "" : nextPage(filters, [last.projectId]) }
}

export async function updateProject(
  tx: Tx,
  author: Author,
  input: {
    readonly projectId: string
    readonly etag: string
    readonly name: string | undefined
    readonly description: string | undefined
  },
): Promise<ProjectRow> {
  assertSomething({ name: input.name, description: input.description })
  const project = await lockCurrent(tx, input)
  assertChangeable(project.state, "update")
  const updated = await store.updateProject(tx, project.projectId, {
    name: input.name ?? project.name,
    description: input.description ?? project.description,
    state: project.state,
  })
  await recordChange(tx, author, "project", project.projectId, "updated")
  return updated
}

/** Moves a project by an event of its state machine; archiving is one of them. */
export async function moveProject(
  tx: Tx,
  author: Author,
  input: { readonly projectId: string; readonly etag: string; readonly event: ProjectEvent },
): Promise<ProjectRow> {
  const project = await lockCurrent(tx, input)
  const state = transition(project.state, input.event)
  const moved = await store.updateProject(tx, project.projectId, { ...project, state })
  const change = state === "archived" ? "archived" : "transitioned"
  await recordChange(tx, author, "project", project.projectId, change)
  return moved
}

/** Refuses where the project is missing or archived; holds it as it is until the transaction ends. */
export async function holdOpenProject(tx: Tx, projectId: string, change: string): Promise<void> {
  const project = await store.holdProjectState(tx, projectId)
  if (project === undefined) throw notFound("project", projectId)
  assertChangeable(project.state, change)
}

export function recordChange(
  tx: Tx,
  author: Author,
  resource: "project" | "document",
  resourceId: string,
  change: "created" | "updated" | "transitioned" | "archived" | "deleted",
): Promise<void> {
  return recordEvents(tx, [
    {
      runId: author.runId ?? "",
      payload: { case: "resourceChanged", value: { resource, resourceId, change } },
    },
  ])
}

/** Refuses a change that was decided upon an older state; an empty etag stands for any. */
export function assertEtag(resource: string, id: string, expected: string, found: string): void {
  if (expected !== "" && expected !== found) {
    throw new RunwardenError("ETAG_MISMATCH", { resource, id })
  }
}

/** Refuses an update that changes nothing: it is a mistake of whoever sent it. */
export function assertSomething(change: Readonly<Record<string, unknown>>): void {
  if (Object.values(change).some((value) => value !== undefined)) return
  const fields = Object.keys(change)
  const description = `one of ${fields.join(", ")} must be given`
  const [field = ""] = fields
  throw new RunwardenError("INVALID_REQUEST", { field }, { violations: [{ field, description }] })
}

async function lockCurrent(
  tx: Tx,
  input: { readonly projectId: string; readonly etag: string },
): Promise<ProjectRow> {
  const project = await store.lockProject(tx, input.projectId)
  if (project === undefined) throw notFound("project", input.projectId)
  assertEtag("project", project.projectId, input.etag, project.revision)
  return project
}

function raise(error: Error): never {
  throw error
}
