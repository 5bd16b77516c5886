import type { JsonValue } from "@bufbuild/protobuf"
import type { Tx } from "../../mesh/database.ts"

/** A stored version; without rules in lists. */
export interface VersionRow {
  readonly name: string
  readonly version: number
  readonly version_id: string
  readonly description: string
  readonly digest: string
  readonly creator: string
  readonly create_time: Date
}

/** A stored version with its rules. */
export interface FullVersionRow extends VersionRow {
  readonly rules: JsonValue
}

/** The version that judges a workspace, after so many activations: one of more was active later. */
export interface ActiveVersion {
  readonly policyVersion: string
  readonly revision: number
}

/** The same as it is read. */
export interface VersionState {
  readonly policy_version: string
  readonly revision: bigint | number | string
}

/** The activation of a workspace. */
export interface ActiveRow extends VersionState {
  readonly activator: string
  readonly update_time: Date
}

/** What a new version is made of; its number comes from the store. */
export interface NewVersion {
  readonly versionId: string
  readonly name: string
  readonly description: string
  readonly rules: JsonValue
  readonly digest: string
  readonly creator: string
}

const columns = "name, version, version_id, description, digest, creator, create_time"

/** Stores the next version of a name. Creations of one name wait for each other. */
export async function insertVersion(
  tx: Tx,
  workspaceId: string,
  version: NewVersion,
): Promise<VersionRow> {
  return tx.one<VersionRow>(
    `with next as (
       insert into policies (workspace_id, name, last_version)
       values ($1::uuid, $2::text, 1)
       on conflict (workspace_id, name) do update set last_version = policies.last_version + 1
       returning last_version
     )
     insert into policy_versions
       (workspace_id, name, version, version_id, description, rules, digest, creator)
     select $1::uuid, $2::text, last_version, $3::uuid, $4::text, $5::jsonb, $6::text, $7::text
     from next
     returning ${columns}`,
    [
      workspaceId,
      version.name,
      version.versionId,
      version.description,
      JSON.stringify(version.rules),
      version.digest,
      version.creator,
    ],
  )
}

/** One version with its rules. */
export async function findVersion(
  tx: Tx,
  workspaceId: string,
  name: string,
  version: number,
): Promise<FullVersionRow | undefined> {
  return tx.maybe<FullVersionRow>(
    `select ${columns}, rules from policy_versions
     where workspace_id = $1::uuid and name = $2::text and version = $3::integer`,
    [workspaceId, name, version],
  )
}

/** A page of versions, newest first, without rules. */
export async function listVersions(
  tx: Tx,
  workspaceId: string,
  query: { readonly name: string; readonly before: string | undefined; readonly limit: number },
): Promise<readonly VersionRow[]> {
  return tx.query<VersionRow>(
    `select ${columns} from policy_versions
     where workspace_id = $1::uuid
       and ($2::text = '' or name = $2::text)
       and ($3::uuid is null or version_id < $3::uuid)
     order by version_id desc
     limit $4::integer`,
    [workspaceId, query.name, query.before ?? null, query.limit],
  )
}

/** The activation of a workspace; undefined where it never activated a version. */
export async function findActive(tx: Tx, workspaceId: string): Promise<ActiveRow | undefined> {
  return tx.maybe<ActiveRow>(
    `select policy_version, revision, activator, update_time from active_policies
     where workspace_id = $1::uuid`,
    [workspaceId],
  )
}

/** What a row says of the version that judges. */
export function toActiveVersion({ policy_version, revision }: VersionState): ActiveVersion {
  return { policyVersion: policy_version, revision: Number(revision) }
}

/** Activates a version; undefined where `revision` is given and is not the current one (0: none). */
export async function activate(
  tx: Tx,
  workspaceId: string,
  change: {
    readonly policyVersion: string
    readonly activator: string
    readonly revision: number | undefined
  },
): Promise<ActiveRow | undefined> {
  return tx.maybe<ActiveRow>(
    `insert into active_policies as active (workspace_id, policy_version, revision, activator)
     select $1::uuid, $2::text, 1, $3::text
     where coalesce($4::bigint, 0) = 0
       or exists (select from active_policies where workspace_id = $1::uuid)
     on conflict (workspace_id) do update
       set policy_version = excluded.policy_version,
         revision = active.revision + 1,
         activator = excluded.activator,
         update_time = now()
       where $4::bigint is null or active.revision = $4::bigint
     returning policy_version, revision, activator, update_time`,
    [workspaceId, change.policyVersion, change.activator, change.revision ?? null],
  )
}
