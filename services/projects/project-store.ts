import type { Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { Page } from "../../mesh/paging.ts"
import type { ProjectState } from "./project.ts"

export interface ProjectRow {
  readonly projectId: string
  readonly name: string
  readonly description: string
  readonly state: ProjectState
  /** A bigint of Postgres, as text. */
  readonly revision: string
  readonly creator: string
  readonly createTime: Date
  readonly updateTime: Date
}

const columns = `project_id as "projectId", name, description, state, revision::text, creator,
  create_time as "createTime", update_time as "updateTime"`

export function insertProject(
  tx: Tx,
  project: Pick<ProjectRow, "projectId" | "name" | "description" | "state" | "creator">,
): Promise<ProjectRow> {
  return tx.one<ProjectRow>(
    `insert into projects (workspace_id, project_id, name, description, state, revision, creator)
     values (runwarden.current_workspace(), $1::uuid, $2::text, $3::text, $4::text, 1, $5::text)
     returning ${columns}`,
    [project.projectId, project.name, project.description, project.state, project.creator],
  )
}

export function findProject(tx: Tx, projectId: string): Promise<ProjectRow | undefined> {
  return tx.maybe<ProjectRow>(
    `select ${columns} from projects
     where workspace_id = runwarden.current_workspace() and project_id = $1::uuid`,
    [projectId],
  )
}

/** Reads a project and keeps others from changing it until the transaction ends. */
export function lockProject(tx: Tx, projectId: string): Promise<ProjectRow | undefined> {
  return tx.maybe<ProjectRow>(
    `select ${columns} from projects
     where workspace_id = runwarden.current_workspace() and project_id = $1::uuid
     for update`,
    [projectId],
  )
}

/** Reads a project's state and keeps it from being archived until the transaction ends. */
export function holdProjectState(
  tx: Tx,
  projectId: string,
): Promise<Pick<ProjectRow, "state"> | undefined> {
  return tx.maybe<Pick<ProjectRow, "state">>(
    `select state from projects
     where workspace_id = runwarden.current_workspace() and project_id = $1::uuid
     for share`,
    [projectId],
  )
}

export function listProjects(
  tx: Tx,
  filter: { readonly state: ProjectState | undefined },
  page: Page,
): Promise<readonly ProjectRow[]> {
  return tx.query<ProjectRow>(
    `select ${columns} from projects
     where workspace_id = runwarden.current_workspace()
       and ($1::text is null or state = $1::text)
       and ($2::uuid is null or project_id < $2::uuid)
     order by project_id desc
     limit $3::int`,
    [filter.state ?? null, uuidCursor(page), page.limit + 1],
  )
}

export function updateProject(
  tx: Tx,
  projectId: string,
  change: Pick<ProjectRow, "name" | "description" | "state">,
): Promise<ProjectRow> {
  return tx.one<ProjectRow>(
    `update projects
     set name = $2::text, description = $3::text, state = $4::text,
         revision = revision + 1, update_time = now()
     where workspace_id = runwarden.current_workspace() and project_id = $1::uuid
     returning ${columns}`,
    [projectId, change.name, change.description, change.state],
  )
}

/** The cursor of a list by id; a token whose cursor is no id was not given by such a list. */
export function uuidCursor(page: Page): string | null {
  if (page.after === undefined) return null
  const [id] = page.after
  if (id === undefined || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) {
    throw new RunwardenError("INVALID_PAGE_TOKEN", { field: "page_token" })
  }
  return id
}
