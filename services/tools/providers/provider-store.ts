/** Providers that workspaces added for themselves, and when each is to be asked for its tools. */
import type { Database, Tx } from "../../../mesh/database.ts"
import type { RefusedTool } from "../registry/tool-store.ts"
import type { Connection } from "./connection.ts"

export interface ProviderKey {
  readonly workspaceId: string
  readonly providerId: string
}

/** What an admin said of a tool. */
export interface StoredSetting {
  readonly riskClass?: "low" | "medium" | "high"
  readonly effect?: "read" | "keyed" | "unsafe"
}

export interface OwnProviderRow {
  readonly provider_id: string
  readonly name: string
  readonly connection: Connection
  readonly settings: Readonly<Record<string, StoredSetting>>
  readonly revision: number
  readonly attempt_time: Date | null
  readonly refresh_time: Date | null
  readonly error: string | null
  readonly refused: readonly RefusedTool[]
  readonly create_time: Date
  readonly update_time: Date
  readonly tool_count: number
  readonly credentials: readonly { readonly name: string; readonly setMs: number }[]
}

const columns = `provider_id, name, connection, settings, revision, attempt_time, refresh_time, error,
  refused, create_time, update_time,
  (select count(*)::integer from workspace_tool_versions v
   where v.workspace_id = p.workspace_id and v.provider_id = p.provider_id and v.offered
  ) as tool_count,
  (select coalesce(jsonb_agg(jsonb_build_object('name', c.name,
     'setMs', round(extract(epoch from c.set_time) * 1000)) order by c.name), '[]')
   from provider_credentials c
   where c.workspace_id = p.workspace_id and c.provider_id = p.provider_id
  ) as credentials`

/** Adds a provider that is due at once. Throws a unique violation where its name looks like another's. */
export async function insertProvider(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  provider: Pick<OwnProviderRow, "name" | "connection" | "settings"> & { readonly looks: string },
): Promise<void> {
  const { name, looks, connection, settings } = provider
  await tx.query(
    `insert into workspace_providers (workspace_id, provider_id, name, looks, connection, settings)
     values ($1::uuid, $2::uuid, $3::text, $4::text, $5::jsonb, $6::jsonb)`,
    [workspaceId, providerId, name, looks, JSON.stringify(connection), JSON.stringify(settings)],
  )
  await tx.query(
    `insert into provider_refreshes_due (workspace_id, provider_id, due_time)
     values ($1::uuid, $2::uuid, now())`,
    [workspaceId, providerId],
  )
}

/** How many providers a workspace has. Whoever asks for it at the same time waits. */
export async function countProviders(tx: Tx, workspaceId: string): Promise<number> {
  await tx.query("select pg_advisory_xact_lock(hashtextextended($1::text, 7401926556))", [
    workspaceId,
  ])
  const { count } = await tx.one<{ count: number }>(
    `select count(*)::integer as count from workspace_providers
     where workspace_id = $1::uuid and delete_time is null`,
    [workspaceId],
  )
  return count
}

/** Forgets providers that were removed so long ago that no run can name them. */
export async function pruneProviders(tx: Tx, workspaceId: string): Promise<void> {
  await tx.query(
    `delete from workspace_providers
     where workspace_id = $1::uuid and delete_time < now() - interval '90 days'`,
    [workspaceId],
  )
}

export async function findProviderNamed(
  tx: Tx,
  workspaceId: string,
  name: string,
): Promise<OwnProviderRow | undefined> {
  return tx.maybe<OwnProviderRow>(
    `select ${columns} from workspace_providers p
     where workspace_id = $1::uuid and name = $2::text and delete_time is null`,
    [workspaceId, name],
  )
}

/** Holds a provider that lives against every other change. */
export async function lockProviderNamed(
  tx: Tx,
  workspaceId: string,
  name: string,
): Promise<OwnProviderRow | undefined> {
  await tx.query(
    `select from workspace_providers
     where workspace_id = $1::uuid and name = $2::text and delete_time is null for update`,
    [workspaceId, name],
  )
  return findProviderNamed(tx, workspaceId, name)
}

export async function listOwnProviders(
  tx: Tx,
  workspaceId: string,
): Promise<readonly OwnProviderRow[]> {
  return tx.query<OwnProviderRow>(
    `select ${columns} from workspace_providers p
     where workspace_id = $1::uuid and delete_time is null order by name`,
    [workspaceId],
  )
}

/** Stores what an admin said of tools, and counts the change. */
export async function updateProvider(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  settings: OwnProviderRow["settings"],
): Promise<void> {
  await tx.query(
    `update workspace_providers
     set settings = $3::jsonb, revision = revision + 1, update_time = now()
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId, JSON.stringify(settings)],
  )
  await makeDue(tx, { workspaceId, providerId })
}

/** Removes a provider: what it offered is out of force, its credentials are gone. */
export async function removeProvider(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<void> {
  const key = [workspaceId, providerId]
  const where = "workspace_id = $1::uuid and provider_id = $2::uuid"
  await tx.query(`update workspace_providers set delete_time = now() where ${where}`, key)
  await tx.query(
    `update workspace_tool_versions set offered = false, active = false where ${where}`,
    key,
  )
  await tx.query(`delete from provider_refreshes_due where ${where}`, key)
  await tx.query(`delete from provider_credentials where ${where}`, key)
  await tx.query(`delete from credential_keys_due where ${where}`, key)
}

/** Has a provider asked for its tools by whoever looks next. */
export async function makeDue(tx: Tx, { workspaceId, providerId }: ProviderKey): Promise<void> {
  await tx.query(
    `update provider_refreshes_due set due_time = clock_timestamp()
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId],
  )
}

/** The same for one in use that nobody has asked for so long. */
export async function makeDueIfOld(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  ageMs: number,
): Promise<void> {
  await tx.query(
    `update provider_refreshes_due d set due_time = clock_timestamp()
     from workspace_providers p
     where d.workspace_id = $1::uuid and d.provider_id = $2::uuid and d.due_time is null
       and p.workspace_id = d.workspace_id and p.provider_id = d.provider_id
       and coalesce(p.attempt_time, '-infinity') < now() - make_interval(secs => $3::float8 / 1000)`,
    [workspaceId, providerId, ageMs],
  )
}

/** A provider that is to be asked, by whoever claimed it. */
export interface ClaimedRefresh {
  readonly workspace_id: string
  readonly provider_id: string
  /** When it was due, as text: a time that has changed since stays due. */
  readonly due: string
}

/** Claims what is due, the longest first, at most so many of one workspace. */
export async function claimRefreshes(
  database: Database,
  { limit, perWorkspace, leaseMs }: { limit: number; perWorkspace: number; leaseMs: number },
): Promise<readonly ClaimedRefresh[]> {
  return database.control(
    [],
    (tx) =>
      tx.query<ClaimedRefresh>(
        `with free as (
           select workspace_id, provider_id, due_time from provider_refreshes_due
           where due_time <= now() and (lease_until is null or lease_until < now())
           order by due_time limit $1::integer * 8 for update skip locked
         ), ranked as (
           select *, row_number() over (partition by workspace_id order by due_time) as place from free
         )
         update provider_refreshes_due d
         set lease_until = now() + make_interval(secs => $3::float8 / 1000)
         from (select * from ranked where place <= $2::integer order by due_time limit $1::integer) r
         where d.workspace_id = r.workspace_id and d.provider_id = r.provider_id
         returning d.workspace_id, d.provider_id, d.due_time::text as due`,
        [limit, perWorkspace, leaseMs],
      ),
    { name: "claim provider refreshes" },
  )
}

/** Ends a claim. `againMs` is when to ask again; undefined for when somebody has a use for it. */
export async function endRefresh(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  end: { readonly due: string; readonly isDone: boolean; readonly againMs: number | undefined },
): Promise<void> {
  await tx.query(
    `update provider_refreshes_due
     set lease_until = null, failures = case when $4::boolean then 0 else failures + 1 end,
       due_time = case when due_time is distinct from $3::timestamptz then due_time
         else now() + make_interval(secs => $5::float8 / 1000) end
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId, end.due, end.isDone, end.againMs ?? null],
  )
}

/** A provider that lives, by its id. */
export async function findProviderById(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<OwnProviderRow | undefined> {
  return tx.maybe<OwnProviderRow>(
    `select ${columns} from workspace_providers p
     where workspace_id = $1::uuid and provider_id = $2::uuid and delete_time is null`,
    [workspaceId, providerId],
  )
}
