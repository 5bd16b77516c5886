import type { JsonObject } from "@bufbuild/protobuf"
import type { Tx } from "../../../mesh/database.ts"
import type { Page } from "../../../mesh/paging.ts"
import type { Effect } from "../ledger/ledger.ts"
import { deploymentId, type ToolKey } from "./activation-store.ts"

export type RiskClass = "low" | "medium" | "high"

/** A version of a tool as it is stored. */
export interface ToolRow {
  readonly provider: string
  readonly name: string
  readonly version: string
  readonly digest: string
  /** `ToolDefinition` as Protobuf JSON. */
  readonly definition: JsonObject
  readonly risk_class: RiskClass
  readonly effect: Effect
  readonly offered: boolean
  /** Whether it is what the deployment uses. */
  readonly active: boolean
  /** Whether a workspace may use it without having activated it. */
  readonly trusted: boolean
  readonly create_time: Date
}

/** What a provider offers and the registry does not take. */
export interface RefusedTool {
  readonly name: string
  readonly version: string
  readonly kind: "invalid" | "quarantined"
  readonly message: string
  readonly digest: string
}

export interface ProviderRow {
  readonly name: string
  readonly attempt_time: Date | null
  readonly refresh_time: Date | null
  readonly error: string | null
  readonly refused: readonly RefusedTool[]
  readonly tool_count: number
}

export type NewTool = Pick<
  ToolRow,
  "name" | "version" | "digest" | "definition" | "risk_class" | "effect"
>

const toolColumns =
  "provider, name, version, digest, definition, risk_class, effect, offered, active, trusted, create_time"

/** As seen by a workspace that uses the version. */
const columnsInUse = `v.provider, v.name, v.version, digest, definition, risk_class, effect, offered,
  true as active, trusted, v.create_time`

export async function insertProviders(tx: Tx, names: readonly string[]): Promise<void> {
  await tx.query(
    "insert into providers (name) select unnest($1::text[]) on conflict (name) do nothing",
    [names],
  )
}

/** Makes refreshes of one provider wait for each other, across replicas. */
export async function lockProvider(tx: Tx, name: string): Promise<void> {
  await tx.one("select name from providers where name = $1::text for update", [name])
}

export async function knownVersions(
  tx: Tx,
  provider: string,
): Promise<readonly Pick<ToolRow, "name" | "version" | "digest">[]> {
  return tx.query("select name, version, digest from tool_versions where provider = $1::text", [
    provider,
  ])
}

/** The first version of a tool is trusted in any case: nobody has used another one. */
export async function insertTool(
  tx: Tx,
  provider: string,
  tool: NewTool,
  { isTrusted }: { readonly isTrusted: boolean },
): Promise<void> {
  await tx.query(
    `insert into tool_versions (provider, name, version, digest, definition, risk_class, effect,
       trusted)
     values ($1::text, $2::text, $3::text, $4::text, $5::jsonb, $6::text, $7::text,
       $8::boolean or not exists (
         select from tool_versions where provider = $1::text and name = $2::text))`,
    [
      provider,
      tool.name,
      tool.version,
      tool.digest,
      JSON.stringify(tool.definition),
      tool.risk_class,
      tool.effect,
      isTrusted,
    ],
  )
}

/** Keeps a definition that was not taken, once. True when it was not there before. */
export async function insertQuarantined(
  tx: Tx,
  provider: string,
  tool: NewTool,
  reason: string,
): Promise<boolean> {
  const rows = await tx.query(
    `insert into quarantined_definitions (provider, name, version, digest, definition, reason)
     values ($1::text, $2::text, $3::text, $4::text, $5::jsonb, $6::text)
     on conflict do nothing returning name`,
    [provider, tool.name, tool.version, tool.digest, JSON.stringify(tool.definition), reason],
  )
  return rows.length > 0
}

/**
 * Marks what the provider offers now, and the version of each tool that is in force: the one that was
 * first seen last where new versions come into force by themselves, otherwise the one that was first
 * seen at all. The index allows one active version, so the old one steps down first.
 */
export async function markOffered(
  tx: Tx,
  provider: string,
  offered: readonly { readonly name: string; readonly version: string }[],
  { activatesNew }: { readonly activatesNew: boolean },
): Promise<void> {
  await tx.query(
    `update tool_versions v
     set offered = o.name is not null, active = v.active and o.name is not null
     from tool_versions t left join unnest($2::text[], $3::text[]) as o (name, version)
       on o.name = t.name and o.version = t.version
     where t.provider = $1::text and v.provider = t.provider and v.name = t.name
       and v.version = t.version and v.offered <> (o.name is not null)`,
    [provider, offered.map((one) => one.name), offered.map((one) => one.version)],
  )
  const inForce = `select distinct on (name) name, version from tool_versions
     where provider = $1::text and (offered or not $2::boolean)
     order by name, case when $2::boolean then -seen_order else seen_order end`
  await tx.query(
    `update tool_versions v set active = false from (${inForce}) f
     where v.provider = $1::text and v.name = f.name and v.version <> f.version and v.active`,
    [provider, activatesNew],
  )
  await tx.query(
    `update tool_versions v set active = true from (${inForce}) f
     where v.provider = $1::text and v.name = f.name and v.version = f.version
       and v.offered and not v.active`,
    [provider, activatesNew],
  )
}

export async function recordRefresh(
  tx: Tx,
  provider: string,
  refused: readonly RefusedTool[],
): Promise<void> {
  await tx.query(
    `update providers
     set attempt_time = now(), refresh_time = now(), error = null, refused = $2::jsonb
     where name = $1::text`,
    [provider, JSON.stringify(refused)],
  )
}

export async function recordFailedRefresh(tx: Tx, provider: string, error: string): Promise<void> {
  await tx.query(
    "update providers set attempt_time = now(), error = $2::text where name = $1::text",
    [provider, error],
  )
}

/**
 * The tools that a name may mean: at most one for a full name, one per provider for a short one.
 * Without a version the active ones; with one only offered ones, unless the name is full.
 */
export async function findToolsNamed(
  tx: Tx,
  providers: readonly string[],
  name: string,
  version: string,
): Promise<readonly ToolRow[]> {
  const slash = name.indexOf("/")
  const provider = slash < 0 ? null : name.slice(0, slash)
  return tx.query<ToolRow>(
    `select ${toolColumns} from tool_versions
     where provider = any ($1::text[]) and name = $2::text
       and ($3::text is null or provider = $3::text)
       and case when $4::text = '' then active
         else version = $4::text and (offered or $3::text is not null) end
     order by provider`,
    [providers, name.slice(slash + 1), provider, version],
  )
}

/** A tool by the digest that a run is pinned to, whether it is offered still or not. */
export async function findPinnedTool(
  tx: Tx,
  digest: string,
  provider?: string,
  name?: string,
): Promise<ToolRow | undefined> {
  return tx.maybe<ToolRow>(
    `select ${toolColumns} from tool_versions
     where digest = $1::text and ($2::text is null or (provider = $2::text and name = $3::text))
     limit 1`,
    [digest, provider ?? null, name ?? null],
  )
}

/**
 * The tools that a workspace uses, each in its version. One more than the page's limit, so that the
 * caller sees whether there is a next page.
 */
export async function listToolsInUse(
  tx: Tx,
  workspaceId: string,
  providers: readonly string[],
  filter: { readonly provider: string; readonly query: string },
  page: Page,
): Promise<readonly ToolRow[]> {
  const [afterProvider, afterName] = page.after ?? []
  return tx.query<ToolRow>(
    `with chosen as (
       select distinct on (provider_id, provider, name) provider_id, provider, name, version
       from tool_activations
       where workspace_id = $7::uuid order by provider_id, provider, name, revision desc
     )
     select ${columnsInUse} from visible_tool_versions v
     left join chosen c using (provider_id, provider, name)
     where workspace_id in ('${deploymentId}', $7::uuid)
       and case when coalesce(c.version, '') = '' then v.active
         else v.version = c.version and v.offered end
       and (provider_id = '${deploymentId}') = (provider = any ($1::text[]))
       and ($2::text = '' or provider = $2::text)
       and ($3::text = '' or position(lower($3::text) in lower(concat_ws(' ',
         provider || '/' || name, definition->>'title', definition->>'description'))) > 0)
       and ($4::text is null or (provider, name) > ($4::text, $5::text))
     order by provider, name
     limit $6::integer`,
    [
      providers,
      filter.provider,
      filter.query,
      afterProvider ?? null,
      afterName ?? null,
      page.limit + 1,
      workspaceId,
    ],
  )
}

export async function listProviderRows(
  tx: Tx,
  names: readonly string[],
): Promise<readonly ProviderRow[]> {
  return tx.query<ProviderRow>(
    `select name, attempt_time, refresh_time, error, refused,
       (select count(*)::integer from tool_versions v
        where v.provider = providers.name and v.offered) as tool_count
     from providers where name = any ($1::text[]) order by name`,
    [names],
  )
}

/** Versions of a tool with the order in which they were first seen. */
export type SeenTool = ToolRow & { readonly seen_order: number }

/** The versions of a tool that were seen before another one, the last first. */
export async function listVersions(
  tx: Tx,
  tool: ToolKey,
  page: { readonly before: number | undefined; readonly limit: number },
): Promise<readonly SeenTool[]> {
  return tx.query<SeenTool>(
    `select ${toolColumns}, seen_order from visible_tool_versions
     where ${isTool} and ($5::bigint is null or seen_order < $5::bigint)
     order by seen_order desc limit $6::integer`,
    [...keyOf(tx, tool), page.before ?? null, page.limit],
  )
}

/** One version of a tool, offered or not. */
export async function findVersion(
  tx: Tx,
  tool: ToolKey & { readonly version: string },
): Promise<ToolRow | undefined> {
  return tx.maybe<ToolRow>(
    `select ${toolColumns} from visible_tool_versions where ${isTool} and version = $5::text`,
    [...keyOf(tx, tool), tool.version],
  )
}

/**
 * The version that others are compared with: the one that is in use, or else the last one that was
 * looked at. Every tool has one, since its first version is trusted.
 */
export async function findCompared(
  tx: Tx,
  tool: ToolKey,
  chosen: { readonly version: string; readonly reviewed: readonly string[] },
): Promise<ToolRow | undefined> {
  return tx.maybe<ToolRow>(
    `select ${toolColumns} from visible_tool_versions
     where ${isTool} and (version = $5::text or trusted or digest = any ($6::text[]))
     order by version = $5::text desc, active desc, seen_order desc limit 1`,
    [...keyOf(tx, tool), chosen.version, chosen.reviewed],
  )
}

/** The versions of one tool, in a transaction of the workspace that looks at them. */
const isTool = `workspace_id = $1::uuid and provider_id = $2::uuid and provider = $3::text
  and name = $4::text`

function keyOf({ workspaceId }: Tx, { provider_id, provider, name }: ToolKey): readonly unknown[] {
  const owner = provider_id === deploymentId ? deploymentId : workspaceId
  return [owner, provider_id, provider, name]
}
