/** Credentials as they are stored, which is encrypted. */
import type { Tx } from "../../../mesh/database.ts"
import type { SealedCredential } from "./keyring.ts"
import type { ProviderKey } from "./provider-store.ts"

export interface CredentialRow extends SealedCredential {
  readonly name: string
}

export async function readCredentialRows(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<readonly CredentialRow[]> {
  return tx.query<CredentialRow>(
    `select name, key_id, nonce, sealed from provider_credentials
     where workspace_id = $1::uuid and provider_id = $2::uuid order by name`,
    [workspaceId, providerId],
  )
}

export async function putCredential(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  { name, key_id, nonce, sealed }: CredentialRow,
): Promise<void> {
  await tx.query(
    `insert into provider_credentials (workspace_id, provider_id, name, key_id, nonce, sealed)
     values ($1::uuid, $2::uuid, $3::text, $4::text, $5::bytea, $6::bytea)
     on conflict (workspace_id, provider_id, name) do update
     set key_id = excluded.key_id, nonce = excluded.nonce, sealed = excluded.sealed,
       set_time = now()`,
    [workspaceId, providerId, name, key_id, nonce, sealed],
  )
}

export async function deleteCredentials(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  names: readonly string[],
): Promise<void> {
  await tx.query(
    `delete from provider_credentials
     where workspace_id = $1::uuid and provider_id = $2::uuid and name = any ($3::text[])`,
    [workspaceId, providerId, names],
  )
}

/** Counts anew under which keys a provider's credentials are kept; in the transaction of their change. */
export async function countKeys(tx: Tx, { workspaceId, providerId }: ProviderKey): Promise<void> {
  const key = [workspaceId, providerId]
  await tx.query(
    "delete from credential_keys_due where workspace_id = $1::uuid and provider_id = $2::uuid",
    key,
  )
  await tx.query(
    `insert into credential_keys_due (workspace_id, provider_id, key_id, credential_count)
     select workspace_id, provider_id, key_id, count(*) from provider_credentials
     where workspace_id = $1::uuid and provider_id = $2::uuid
     group by workspace_id, provider_id, key_id`,
    key,
  )
}

export interface KeyUse {
  readonly key_id: string
  readonly credential_count: number
}

/** Under which keys the credentials of all workspaces are kept. As the worker's role. */
export async function readKeyUses(tx: Tx): Promise<readonly KeyUse[]> {
  return tx.query<KeyUse>(
    `select key_id, sum(credential_count)::integer as credential_count from credential_keys_due
     group by key_id order by key_id`,
  )
}

/** The next providers with credentials under other keys than the first. As the worker's role. */
export async function findOldSeals(
  tx: Tx,
  search: {
    readonly primaryId: string
    readonly keyIds: readonly string[]
    readonly after: ProviderKey | undefined
    readonly limit: number
  },
): Promise<readonly ProviderKey[]> {
  const { primaryId, keyIds, after, limit } = search
  return tx.query<ProviderKey>(
    `select distinct workspace_id as "workspaceId", provider_id as "providerId"
     from credential_keys_due
     where key_id = any ($1::text[]) and key_id <> $2::text
       and ($3::uuid is null or (workspace_id, provider_id) > ($3::uuid, $4::uuid))
     order by 1, 2 limit $5::integer`,
    [keyIds, primaryId, after?.workspaceId ?? null, after?.providerId ?? null, limit],
  )
}

/** Holds a provider's credentials; false where somebody else does. */
export async function lockForRotation(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
): Promise<boolean> {
  const rows = await tx.query(
    `select from workspace_providers
     where workspace_id = $1::uuid and provider_id = $2::uuid for update skip locked`,
    [workspaceId, providerId],
  )
  return rows.length > 0
}

/** A provider's credentials under other keys than this one. */
export async function readOldSeals(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  primaryId: string,
): Promise<readonly CredentialRow[]> {
  return tx.query<CredentialRow>(
    `select name, key_id, nonce, sealed from provider_credentials
     where workspace_id = $1::uuid and provider_id = $2::uuid and key_id <> $3::text`,
    [workspaceId, providerId, primaryId],
  )
}

/** Puts what is encrypted anew in place of what was read. */
export async function replaceSeal(
  tx: Tx,
  { workspaceId, providerId }: ProviderKey,
  { name, key_id, nonce, sealed }: CredentialRow,
): Promise<void> {
  await tx.query(
    `update provider_credentials set key_id = $4::text, nonce = $5::bytea, sealed = $6::bytea
     where workspace_id = $1::uuid and provider_id = $2::uuid and name = $3::text`,
    [workspaceId, providerId, name, key_id, nonce, sealed],
  )
}
