import type { Database, Tx } from "../../mesh/database.ts"

/** A run that this replica owns until its lease ends. */
export interface Claim {
  readonly workspaceId: string
  readonly runId: string
  readonly epoch: number
  /** Owners that vanished over this run, this claim's predecessor included. */
  readonly crashes: number
}

/** What one look at the claim table found. */
export interface Look {
  readonly claims: readonly Claim[]
  /** Runs of this owner whose executing call must stop. */
  readonly cancelled: readonly string[]
}

/**
 * Takes over what is due, the longest due first, and tells which runs of this owner were cancelled.
 * A row that is taken moves out of sight for the length of the lease, so that rows which nobody can
 * handle never hide others.
 */
export function claimDue(
  database: Database,
  options: { readonly owner: string; readonly leaseMs: number; readonly limit: number },
  signal: AbortSignal,
): Promise<Look> {
  return database.worker(
    [],
    async (tx) => {
      const claims =
        options.limit <= 0
          ? []
          : await tx.query<Claim>(
              `with due as (
                 select workspace_id, run_id from run_claims where due_time <= now()
                 order by due_time limit $3::integer for update skip locked
               )
               update run_claims c
               set owner = $1::uuid, epoch = epoch + 1,
                 due_time = now() + $2::double precision * interval '1 millisecond',
                 crashes = crashes + (owner is not null)::integer
               from due where c.workspace_id = due.workspace_id and c.run_id = due.run_id
               returning c.workspace_id as "workspaceId", c.run_id as "runId", c.epoch, c.crashes`,
              [options.owner, options.leaseMs, options.limit],
            )
      const cancelled = await tx.query<{ readonly runId: string }>(
        `select run_id as "runId" from run_claims where owner = $1::uuid and is_cancelled`,
        [options.owner],
      )
      return { claims, cancelled: cancelled.map(({ runId }) => runId) }
    },
    { name: "claimDue", signal },
  )
}

/**
 * Notes where a run stood when it was taken over, and answers how many owners have vanished over it
 * there: progress forgives those that vanished before.
 */
export async function countCrashes(tx: Tx, claim: Claim, place: string): Promise<number> {
  const row = await tx.maybe<{ readonly crashes: number }>(
    `update run_claims set place = $4::text,
       crashes = case when place = $4::text then crashes else least(crashes, 1) end
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint
     returning crashes`,
    [claim.workspaceId, claim.runId, claim.epoch, place],
  )
  return row?.crashes ?? 0
}

/** Renews leases; answers the runs that are still this owner's. */
export async function renewLeases(
  database: Database,
  owner: string,
  leaseMs: number,
  runs: readonly Pick<Claim, "workspaceId" | "runId" | "epoch">[],
): Promise<ReadonlySet<string>> {
  const rows = await database.worker(
    [],
    (tx) =>
      tx.query<{ readonly runId: string }>(
        `update run_claims c
         set due_time = now() + $2::double precision * interval '1 millisecond'
         from unnest($3::uuid[], $4::uuid[], $5::bigint[]) as mine (workspace_id, run_id, epoch)
         where c.workspace_id = mine.workspace_id and c.run_id = mine.run_id
           and c.epoch = mine.epoch and c.owner = $1::uuid
         returning c.run_id as "runId"`,
        [
          owner,
          leaseMs,
          runs.map(({ workspaceId }) => workspaceId),
          runs.map(({ runId }) => runId),
          runs.map(({ epoch }) => epoch),
        ],
      ),
    { name: "renewLeases" },
  )
  return new Set(rows.map(({ runId }) => runId))
}

/** How a run is given back: when it is due again, and whether its owner failed over it. */
export interface Release {
  readonly due: { readonly afterMs: number } | { readonly at: Date }
  readonly isFailure: boolean
}

/** Gives a run back. Does nothing where it is another owner's by now. */
export async function releaseClaim(
  tx: Tx,
  claim: Pick<Claim, "workspaceId" | "runId" | "epoch">,
  { due, isFailure }: Release,
): Promise<void> {
  await tx.query(
    `update run_claims set owner = null,
       crashes = case when $6::boolean then crashes + 1 else 0 end,
       due_time = case when $4::timestamptz is not null then $4::timestamptz
         else now() + $5::double precision * interval '1 millisecond' end
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint`,
    [
      claim.workspaceId,
      claim.runId,
      claim.epoch,
      "at" in due ? due.at : null,
      "afterMs" in due ? due.afterMs : 0,
      isFailure,
    ],
  )
}

/**
 * What an owner does that lost its lease and lives: its successor's count of vanished owners goes
 * back by one, and a run that nobody has taken yet is due at once.
 */
export async function outliveLease(
  tx: Tx,
  claim: Pick<Claim, "workspaceId" | "runId" | "epoch">,
): Promise<void> {
  await tx.query(
    `update run_claims set
       owner = case when epoch > $3::bigint then owner end,
       due_time = case when epoch > $3::bigint then due_time else least(due_time, now()) end,
       crashes = case when epoch > $3::bigint then greatest(crashes - 1, 0) else crashes end
     where workspace_id = $1::uuid and run_id = $2::uuid
       and (epoch > $3::bigint or owner is not null)`,
    [claim.workspaceId, claim.runId, claim.epoch],
  )
}

/** Forgets the claim of a run that needs no owner any more. */
export async function dropClaim(
  tx: Tx,
  claim: Pick<Claim, "workspaceId" | "runId" | "epoch">,
): Promise<void> {
  await tx.query(
    `delete from run_claims c where c.workspace_id = $1::uuid and c.run_id = $2::uuid
       and c.epoch = $3::bigint and not exists (
         select from runs r where r.workspace_id = $1::uuid and r.run_id = $2::uuid
           and r.end_time is null)`,
    [claim.workspaceId, claim.runId, claim.epoch],
  )
}
