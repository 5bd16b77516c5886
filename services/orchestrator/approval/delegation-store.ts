import type { Tx } from "../../../mesh/database.ts"

export interface DelegationRecord {
  readonly workspaceId: string
  readonly delegationId: string
  readonly delegatorId: string
  readonly delegateId: string
  readonly comment: string
  readonly expireTime: Date
  readonly createTime: Date
  readonly revokeTime: Date | null
  readonly revokerId: string
  /** Whether it was in force when it was read, by the clock of the database. */
  readonly isActive: boolean
}

const columns = `
  workspace_id as "workspaceId", delegation_id as "delegationId", delegator_id as "delegatorId",
  delegate_id as "delegateId", comment, expire_time as "expireTime", create_time as "createTime",
  revoke_time as "revokeTime", revoker_id as "revokerId",
  revoke_time is null and expire_time > now() as "isActive"`

export async function insertDelegation(
  tx: Tx,
  delegation: {
    readonly workspaceId: string
    readonly delegationId: string
    readonly delegatorId: string
    readonly delegateId: string
    readonly comment: string
    readonly durationMs: number
  },
): Promise<DelegationRecord> {
  return tx.one<DelegationRecord>(
    `insert into delegations (workspace_id, delegation_id, delegator_id, delegate_id, comment,
       expire_time)
     values ($1::uuid, $2::uuid, $3::text, $4::text, $5::text,
       now() + $6::double precision * interval '1 millisecond')
     returning ${columns}`,
    [
      delegation.workspaceId,
      delegation.delegationId,
      delegation.delegatorId,
      delegation.delegateId,
      delegation.comment,
      delegation.durationMs,
    ],
  )
}

export async function findDelegation(
  tx: Tx,
  workspaceId: string,
  delegationId: string,
): Promise<DelegationRecord | undefined> {
  return tx.maybe<DelegationRecord>(
    `select ${columns} from delegations
     where workspace_id = $1::uuid and delegation_id = $2::uuid`,
    [workspaceId, delegationId],
  )
}

/** Ends a delegation; one that was revoked before stays as it was. */
export async function revokeDelegation(
  tx: Tx,
  workspaceId: string,
  delegationId: string,
  revokerId: string,
): Promise<DelegationRecord> {
  return tx.one<DelegationRecord>(
    `update delegations set revoke_time = coalesce(revoke_time, now()),
       revoker_id = case when revoke_time is null then $3::text else revoker_id end
     where workspace_id = $1::uuid and delegation_id = $2::uuid
     returning ${columns}`,
    [workspaceId, delegationId, revokerId],
  )
}

export interface DelegationFilter {
  readonly isActiveOnly: boolean
  readonly actorId: string
}

/** Delegations, newest first. */
export async function listDelegations(
  tx: Tx,
  workspaceId: string,
  filter: DelegationFilter,
  page: { readonly limit: number; readonly after: string | undefined },
): Promise<readonly DelegationRecord[]> {
  return tx.query<DelegationRecord>(
    `select ${columns} from delegations
     where workspace_id = $1::uuid
       and (not $2::boolean or (revoke_time is null and expire_time > now()))
       and ($3::text = '' or $3::text in (delegator_id, delegate_id))
       and ($4::uuid is null or delegation_id < $4::uuid)
     order by delegation_id desc limit $5::integer`,
    [workspaceId, filter.isActiveOnly, filter.actorId, page.after ?? null, page.limit],
  )
}
