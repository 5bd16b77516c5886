/** Versions of tools of workspaces' own providers. */
import type { Tx } from "../../../mesh/database.ts"
import type { NewTool, RefusedTool, ToolRow } from "../registry/tool-store.ts"
import type { ProviderKey } from "./provider-store.ts"

const columns = `p.name as provider, v.name, v.version, v.digest, v.definition, v.risk_class, v.effect,
  v.offered, v.active, v.trusted, v.create_time`

const versionsOfProviders = `workspace_tool_versions v
  join workspace_providers p using (workspace_id, provider_id)`

/** The provider as it must be for an answer of it to count. */
export async function lockForRefresh(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<{ readonly revision: number; readonly name: string } | undefined> {
  return tx.maybe(
    `select revision, name from workspace_providers
     where workspace_id = $1::uuid and provider_id = $2::uuid and delete_time is null for update`,
    [workspaceId, providerId],
  )
}

export async function knownOwnVersions(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<readonly Pick<ToolRow, "name" | "version" | "digest">[]> {
  return tx.query(
    `select name, version, digest from workspace_tool_versions
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId],
  )
}

/** The first version of a tool needs nobody to look at it; every other one does. */
export async function insertOwnTool(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  tool: NewTool,
): Promise<void> {
  await tx.query(
    `insert into workspace_tool_versions (workspace_id, provider_id, name, version, digest, definition,
       risk_class, effect, trusted)
     values ($1::uuid, $2::uuid, $3::text, $4::text, $5::text, $6::jsonb, $7::text, $8::text,
       not exists (select from workspace_tool_versions
         where workspace_id = $1::uuid and provider_id = $2::uuid and name = $3::text))`,
    [
      workspaceId,
      providerId,
      tool.name,
      tool.version,
      tool.digest,
      JSON.stringify(tool.definition),
      tool.risk_class,
      tool.effect,
    ],
  )
}

/** Marks what is offered, and the first version of each tool as the one in force where it is. */
export async function markOwnOffered(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  offered: readonly { readonly name: string; readonly version: string }[],
): Promise<void> {
  await tx.query(
    `update workspace_tool_versions v
     set offered = o.name is not null, active = o.name is not null and v.trusted
     from workspace_tool_versions w
     left join unnest($3::text[], $4::text[]) as o (name, version) using (name, version)
     where w.workspace_id = $1::uuid and w.provider_id = $2::uuid
       and v.workspace_id = w.workspace_id and v.provider_id = w.provider_id
       and v.name = w.name and v.version = w.version
       and (v.offered, v.active)
         is distinct from (o.name is not null, o.name is not null and v.trusted)`,
    [
      workspaceId,
      providerId,
      offered.map(({ name }) => name),
      offered.map(({ version }) => version),
    ],
  )
}

export async function recordOwnRefresh(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  refused: readonly RefusedTool[],
): Promise<void> {
  await tx.query(
    `update workspace_providers
     set attempt_time = now(), refresh_time = now(), error = null, refused = $3::jsonb
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId, JSON.stringify(refused)],
  )
}

export async function recordOwnFailure(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  error: string,
): Promise<void> {
  await tx.query(
    `update workspace_providers set attempt_time = now(), error = $3::text
     where workspace_id = $1::uuid and provider_id = $2::uuid`,
    [workspaceId, providerId, error],
  )
}

/** What a name means among the tools of a workspace's own providers; one for each that offers it. */
export async function findOwnToolsNamed(
  tx: Tx,
  workspaceId: string,
  name: string,
  version: string,
): Promise<readonly ToolRow[]> {
  const slash = name.indexOf("/")
  const provider = slash < 0 ? null : name.slice(0, slash)
  return tx.query<ToolRow>(
    `select ${columns} from ${versionsOfProviders}
     where v.workspace_id = $1::uuid and p.delete_time is null and v.name = $2::text
       and ($3::text is null or p.name = $3::text)
       and case when $4::text = '' then v.active
         else v.version = $4::text and (v.offered or $3::text is not null) end
     order by p.name`,
    [workspaceId, name.slice(slash + 1), provider, version],
  )
}

/** A tool by the digest that a run is pinned to, of a provider that lives or has lived. */
export async function findOwnPinnedTool(
  tx: Tx,
  workspaceId: string,
  digest: string,
  provider?: string,
  name?: string,
): Promise<ToolRow | undefined> {
  return tx.maybe<ToolRow>(
    `select ${columns} from ${versionsOfProviders}
     where v.workspace_id = $1::uuid and v.digest = $2::text
       and ($3::text is null or (p.name = $3::text and v.name = $4::text))
     limit 1`,
    [workspaceId, digest, provider ?? null, name ?? null],
  )
}
