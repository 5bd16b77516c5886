import type { Tx } from "../../mesh/database.ts"

export interface WorkspaceRow {
  readonly workspaceId: string
  readonly displayName: string
  readonly createTime: Date
  readonly updateTime: Date
}

const workspaceColumns = `
  workspace_id as "workspaceId", display_name as "displayName",
  create_time as "createTime", update_time as "updateTime"`

/** Inserts a workspace; undefined where the id is taken. */
export function insertWorkspace(
  tx: Tx,
  workspaceId: string,
  displayName: string,
): Promise<WorkspaceRow | undefined> {
  return tx.maybe<WorkspaceRow>(
    `insert into workspaces (workspace_id, display_name) values ($1::uuid, $2::text)
     on conflict do nothing
     returning ${workspaceColumns}`,
    [workspaceId, displayName],
  )
}

export function getWorkspace(tx: Tx, workspaceId: string): Promise<WorkspaceRow> {
  return tx.one<WorkspaceRow>(
    `select ${workspaceColumns} from workspaces where workspace_id = $1::uuid`,
    [workspaceId],
  )
}
