import type { Tx } from "../../mesh/database.ts"
import type { StoredRole } from "./member-store.ts"

export interface ApiKeyRow {
  readonly keyId: string
  readonly actorId: string
  readonly displayName: string
  readonly prefix: string
  readonly createTime: Date
  readonly expireTime: Date | null
  readonly revokeTime: Date | null
  readonly lastUseTime: Date | null
}

export interface NewApiKey {
  readonly keyId: string
  readonly actorId: string
  readonly displayName: string
  readonly prefix: string
  readonly hash: Buffer
  readonly expireTime: Date | undefined
}

/** What a live key allows: its actor, and the role that the actor has now. */
export interface CredentialRow {
  readonly actorId: string
  /** Null where the actor is no member. */
  readonly role: StoredRole | null
  /** Milliseconds until the key expires; null where it does not. */
  readonly expiresInMs: number | null
}

const keyColumns = `
  key_id as "keyId", actor_id as "actorId", display_name as "displayName", prefix,
  create_time as "createTime", expire_time as "expireTime", revoke_time as "revokeTime",
  last_use_time as "lastUseTime"`

export async function insertApiKey(
  tx: Tx,
  workspaceId: string,
  key: NewApiKey,
): Promise<ApiKeyRow> {
  const row = await tx.one<ApiKeyRow>(
    `insert into api_keys (workspace_id, key_id, actor_id, display_name, prefix, expire_time)
     values ($1::uuid, $2::uuid, $3::uuid, $4::text, $5::text, $6::timestamptz)
     returning ${keyColumns}`,
    [workspaceId, key.keyId, key.actorId, key.displayName, key.prefix, key.expireTime ?? null],
  )
  await tx.query(
    `insert into api_key_claims (workspace_id, key_id, key_hash)
     values ($1::uuid, $2::uuid, $3::bytea)`,
    [workspaceId, key.keyId, key.hash],
  )
  return row
}

/** Keeps a membership from ending before this transaction does; false where there is none. */
export async function holdMember(tx: Tx, workspaceId: string, actorId: string): Promise<boolean> {
  const row = await tx.maybe(
    "select 1 from members where workspace_id = $1::uuid and actor_id = $2::uuid for share",
    [workspaceId, actorId],
  )
  return row !== undefined
}

/** The keys after `after`, by key id; of one actor where it is given. */
export function listApiKeys(
  tx: Tx,
  workspaceId: string,
  filter: { readonly actorId: string | undefined },
  after: string | undefined,
  limit: number,
): Promise<readonly ApiKeyRow[]> {
  return tx.query<ApiKeyRow>(
    `select ${keyColumns} from api_keys
     where workspace_id = $1::uuid
       and ($2::uuid is null or actor_id = $2::uuid)
       and ($3::uuid is null or key_id > $3::uuid)
     order by key_id
     limit $4::integer`,
    [workspaceId, filter.actorId ?? null, after ?? null, limit],
  )
}

/** Revokes a key, or finds it revoked; undefined where there is none. */
export function revokeApiKey(
  tx: Tx,
  workspaceId: string,
  keyId: string,
): Promise<ApiKeyRow | undefined> {
  return tx.maybe<ApiKeyRow>(
    `update api_keys set revoke_time = coalesce(revoke_time, now())
     where workspace_id = $1::uuid and key_id = $2::uuid
     returning ${keyColumns}`,
    [workspaceId, keyId],
  )
}

/** Revokes all keys of an actor and says how many were live. */
export async function revokeKeysOf(tx: Tx, workspaceId: string, actorId: string): Promise<number> {
  const rows = await tx.query(
    `update api_keys set revoke_time = now()
     where workspace_id = $1::uuid and actor_id = $2::uuid and revoke_time is null
     returning key_id`,
    [workspaceId, actorId],
  )
  return rows.length
}

/** Which workspace a secret belongs to. For the worker role, before a workspace is known. */
export function findClaim(
  tx: Tx,
  hash: Buffer,
): Promise<{ readonly workspaceId: string; readonly keyId: string } | undefined> {
  return tx.maybe(
    `select workspace_id as "workspaceId", key_id as "keyId"
     from api_key_claims where key_hash = $1::bytea`,
    [hash],
  )
}

/** The credential of a key that is neither revoked nor expired. */
export function findCredential(
  tx: Tx,
  workspaceId: string,
  keyId: string,
): Promise<CredentialRow | undefined> {
  return tx.maybe<CredentialRow>(
    `select k.actor_id as "actorId", m.role,
       (extract(epoch from k.expire_time - now()) * 1000)::float8 as "expiresInMs"
     from api_keys k left join members m using (workspace_id, actor_id)
     where k.workspace_id = $1::uuid and k.key_id = $2::uuid
       and k.revoke_time is null and (k.expire_time is null or k.expire_time > now())`,
    [workspaceId, keyId],
  )
}

export async function recordUse(
  tx: Tx,
  workspaceId: string,
  keyIds: readonly string[],
): Promise<void> {
  await tx.query(
    `update api_keys set last_use_time = now()
     where workspace_id = $1::uuid and key_id = any ($2::uuid[])`,
    [workspaceId, keyIds],
  )
}

/** The key of this secret in the workspace; undefined where there is none. */
export function findKey(
  tx: Tx,
  workspaceId: string,
  hash: Buffer,
): Promise<{ readonly isLive: boolean } | undefined> {
  return tx.maybe(
    `select k.revoke_time is null and (k.expire_time is null or k.expire_time > now()) as "isLive"
     from api_key_claims c join api_keys k using (workspace_id, key_id)
     where c.workspace_id = $1::uuid and c.key_hash = $2::bytea`,
    [workspaceId, hash],
  )
}
