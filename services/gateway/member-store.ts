import type { Tx } from "../../mesh/database.ts"

/** A role as it is stored. */
export type StoredRole = "viewer" | "member" | "approver" | "admin"

export interface MemberRow {
  readonly actorId: string
  readonly displayName: string
  readonly kind: "user" | "service"
  readonly role: StoredRole
  readonly revision: string
  readonly createTime: Date
  readonly updateTime: Date
}

export interface NewMember {
  readonly actorId: string
  readonly displayName: string
  readonly kind: "user" | "service"
  readonly role: StoredRole
}

const memberColumns = `
  m.actor_id as "actorId", a.display_name as "displayName", a.kind, m.role,
  m.revision::text as revision, m.create_time as "createTime", m.update_time as "updateTime"`

/** Makes changes of one workspace's members wait for each other, so that admins can be counted. */
export async function lockMembers(tx: Tx, workspaceId: string): Promise<void> {
  await tx.query("select 1 from workspaces where workspace_id = $1::uuid for update", [workspaceId])
}

/** Inserts an actor and its membership; either may exist already and then stays as it is. */
export async function insertMember(tx: Tx, workspaceId: string, member: NewMember): Promise<void> {
  await tx.query(
    `with actor as (
       insert into actors (workspace_id, actor_id, display_name, kind)
       values ($1::uuid, $2::uuid, $3::text, $4::text)
       on conflict do nothing
     )
     insert into members (workspace_id, actor_id, role)
     values ($1::uuid, $2::uuid, $5::text)
     on conflict do nothing`,
    [workspaceId, member.actorId, member.displayName, member.kind, member.role],
  )
}

export function findMember(
  tx: Tx,
  workspaceId: string,
  actorId: string,
): Promise<MemberRow | undefined> {
  return tx.maybe<MemberRow>(
    `select ${memberColumns}
     from members m join actors a using (workspace_id, actor_id)
     where m.workspace_id = $1::uuid and m.actor_id = $2::uuid`,
    [workspaceId, actorId],
  )
}

export function getMember(tx: Tx, workspaceId: string, actorId: string): Promise<MemberRow> {
  return tx.one<MemberRow>(
    `select ${memberColumns}
     from members m join actors a using (workspace_id, actor_id)
     where m.workspace_id = $1::uuid and m.actor_id = $2::uuid`,
    [workspaceId, actorId],
  )
}

/** The members after `after`, by actor id. */
export function listMembers(
  tx: Tx,
  workspaceId: string,
  after: string | undefined,
  limit: number,
): Promise<readonly MemberRow[]> {
  return tx.query<MemberRow>(
    `select ${memberColumns}
     from members m join actors a using (workspace_id, actor_id)
     where m.workspace_id = $1::uuid and ($2::uuid is null or m.actor_id > $2::uuid)
     order by m.actor_id
     limit $3::integer`,
    [workspaceId, after ?? null, limit],
  )
}

/** How many admins there are beside one member. Exact only under `lockMembers`. */
export async function countOtherAdmins(
  tx: Tx,
  workspaceId: string,
  actorId: string,
): Promise<number> {
  const { count } = await tx.one<{ count: number }>(
    `select count(*)::integer as count from members
     where workspace_id = $1::uuid and actor_id <> $2::uuid and role = 'admin'`,
    [workspaceId, actorId],
  )
  return count
}

/** Changes name or role of a member; what is undefined stays. */
export async function updateMember(
  tx: Tx,
  workspaceId: string,
  actorId: string,
  change: { readonly displayName: string | undefined; readonly role: StoredRole | undefined },
): Promise<void> {
  await tx.query(
    `with actor as (
       update actors set display_name = coalesce($3::text, display_name)
       where workspace_id = $1::uuid and actor_id = $2::uuid
     )
     update members
     set role = coalesce($4::text, role), revision = revision + 1, update_time = now()
     where workspace_id = $1::uuid and actor_id = $2::uuid`,
    [workspaceId, actorId, change.displayName ?? null, change.role ?? null],
  )
}

export async function deleteMember(tx: Tx, workspaceId: string, actorId: string): Promise<void> {
  await tx.query("delete from members where workspace_id = $1::uuid and actor_id = $2::uuid", [
    workspaceId,
    actorId,
  ])
}

/** The role of an actor now; undefined for one that is no member. */
export async function findRole(
  tx: Tx,
  workspaceId: string,
  actorId: string,
): Promise<StoredRole | undefined> {
  const row = await tx.maybe<{ role: StoredRole }>(
    "select role from members where workspace_id = $1::uuid and actor_id = $2::uuid",
    [workspaceId, actorId],
  )
  return row?.role
}
