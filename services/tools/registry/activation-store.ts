/** Which versions of tools workspaces use: every activation and roll-back, in order. */
import type { Statement, Tx } from "../../../mesh/database.ts"

/** The provider id of everything that is the deployment's. */
export const deploymentId = "00000000-0000-0000-0000-000000000000"

/** A tool by its provider and its name within it. */
export interface ToolKey {
  /** Of a workspace's own provider; `deploymentId` for the deployment's. */
  readonly provider_id: string
  readonly provider: string
  readonly name: string
}

/** What one activation or roll-back made of a tool; an empty version is the deployment's. */
export interface ActivationRow extends ToolKey {
  readonly revision: number
  readonly version: string
  readonly digest: string
  readonly previous_version: string
  readonly previous_digest: string
  readonly activator_id: string
  readonly create_time: Date
}

export type NewActivation = ToolKey &
  Pick<ActivationRow, "version" | "digest" | "activator_id"> & {
    readonly workspaceId: string
    /** The row that it follows; undefined for the first of a tool. */
    readonly last: ActivationRow | undefined
  }

const columns = `provider_id, provider, name, revision, version, digest, previous_version, previous_digest,
  activator_id, create_time`

/** The row that is in force. */
export async function lastActivation(
  tx: Tx,
  workspaceId: string,
  { provider_id, provider, name }: ToolKey,
): Promise<ActivationRow | undefined> {
  return tx.maybe<ActivationRow>(
    `select ${columns} from tool_activations
     where workspace_id = $1::uuid and provider_id = $2::uuid and provider = $3::text
       and name = $4::text
     order by revision desc limit 1`,
    [workspaceId, provider_id, provider, name],
  )
}

/** Adds a row behind the last one. Undefined where another was added meanwhile. */
export async function insertActivation(
  tx: Tx,
  { workspaceId, provider_id, provider, name, version, digest, activator_id, last }: NewActivation,
): Promise<ActivationRow | undefined> {
  return tx.maybe<ActivationRow>(
    `insert into tool_activations (workspace_id, provider, name, revision, version, digest,
       previous_version, previous_digest, activator_id, provider_id)
     values ($1::uuid, $2::text, $3::text, $4::integer, $5::text, $6::text, $7::text, $8::text,
       $9::text, $10::uuid)
     on conflict (workspace_id, provider_id, provider, name, revision) do nothing
     returning ${columns}`,
    [
      workspaceId,
      provider,
      name,
      (last?.revision ?? 0) + 1,
      version,
      digest,
      last?.version ?? "",
      last?.digest ?? "",
      activator_id,
      provider_id,
    ],
  )
}

/** What workspaces use and have ever activated, and the providers that they added. */
export interface ChoiceRow extends ToolKey {
  readonly workspace_id: string
  /** The version in force; empty for the deployment's. */
  readonly version: string
  readonly digests: readonly string[]
  /** Of a provider's own row; null in a row about a tool. */
  readonly revision: number | null
}

/** What was activated of a provider that is there no more does not count. */
export const choicesStatement: Statement = {
  name: "read-tool-choices",
  text: `
    select workspace_id, provider_id, provider, name,
      (array_agg(version order by revision desc))[1] as version,
      array_agg(distinct digest) as digests, null::integer as revision
    from tool_activations a
    where workspace_id = any ($1::uuid[]) and (provider_id = '${deploymentId}' or exists (
      select from workspace_providers p
      where p.workspace_id = a.workspace_id and p.provider_id = a.provider_id
        and p.delete_time is null))
    group by workspace_id, provider_id, provider, name
    union all
    select workspace_id, provider_id, name, '', '', '{}', revision
    from workspace_providers where workspace_id = any ($1::uuid[]) and delete_time is null`,
}
