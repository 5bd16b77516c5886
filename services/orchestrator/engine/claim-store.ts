import type { Database, Tx } from "../../../mesh/database.ts"
import { compareRuns } from "../change/change-store.ts"

/** A run that this replica owns until its lease ends. */
export interface Claim {
  readonly workspaceId: string
  readonly runId: string
  readonly epoch: number
  /** Owners that vanished while they did something about the run where it stands. */
  readonly crashes: number
  /** Whether the last owner vanished, so that what it did about the run may have been the reason. */
  readonly isOrphan: boolean
}

/** What one look at the claim table found. */
export interface Look {
  readonly claims: readonly Claim[]
  /** Runs of this owner whose executing call must stop. */
  readonly cancelled: readonly string[]
  /** Whether more may be due than was claimed. */
  readonly isFull: boolean
  /** When the next run becomes due; undefined where none will. */
  readonly nextDueMs: number | undefined
  /** The last workspace that had its turn; empty where all had it. */
  readonly seen: string
}

export interface LookOptions {
  readonly owner: string
  readonly leaseMs: number
  readonly limit: number
  /** `seen` of the look before. */
  readonly after: string
}

/** As many due rows as a look takes in at once, and workspaces that it gives a turn. */
const pageSize = 256
const ringSize = 64
/** No workspace has this id: all come after it. */
const firstId = "00000000-0000-0000-0000-000000000000"

type RunKey = Pick<Claim, "workspaceId" | "runId">

/**
 * Takes over what is due, and tells which runs of this owner were cancelled. While all that is due
 * fits into a page, the workspaces in it take turns, the longest due first. Where it does not, the
 * workspaces that have runs at all take turns, some of them each look, so that none has to wait for
 * another's flood. A row that is taken moves out of sight for the length of the lease, and one that
 * somebody holds is passed over, so that rows which nobody can handle never hide others. Where
 * nothing is due, which is almost always, it is one statement that reads.
 */
export async function claimDue(
  database: Database,
  { owner, leaseMs, limit, after }: LookOptions,
  signal: AbortSignal,
): Promise<Look> {
  const page = await readPage(database, owner, signal)
  const { cancelled } = page
  const nextDueMs = page.nextDueMs ?? undefined
  const isFlooded = page.due.length > pageSize
  const nothing = { claims: [], cancelled, isFull: page.due.length > 0, nextDueMs, seen: after }
  if (limit <= 0 || page.due.length === 0) return nothing
  const ring = isFlooded
    ? await readRing(database, after === "" ? firstId : after, limit, signal)
    : undefined
  const chosen = inTurns(ring?.due ?? page.due, limit)
  const claims = await take(database, { owner, leaseMs, chosen }, signal)
  const isFull = isFlooded || page.due.length > chosen.length
  return { claims, cancelled, isFull, nextDueMs, seen: ring?.seen ?? "" }
}

/** From each workspace one, then from each the next, in the order given. */
function inTurns(due: readonly RunKey[], limit: number): readonly RunKey[] {
  const queues = [...Map.groupBy(due, ({ workspaceId }) => workspaceId).values()]
  const longest = Math.max(...queues.map(({ length }) => length))
  const turns = Array.from({ length: longest }, (_, turn) =>
    queues.flatMap((queue) => queue[turn] ?? []),
  )
  return turns.flat().slice(0, limit)
}

interface Page {
  readonly due: readonly RunKey[]
  readonly cancelled: readonly string[]
  readonly nextDueMs: number | null
}

function readPage(database: Database, owner: string, signal: AbortSignal): Promise<Page> {
  return database.control(
    [],
    (tx) =>
      tx.one<Page>(
        `select
           coalesce((select json_agg(json_build_object('workspaceId', workspace_id, 'runId', run_id))
             from (select workspace_id, run_id from run_claims where due_time <= now()
               order by due_time limit ${pageSize} + 1) page), '[]') as due,
           array(select run_id::text from run_claims where owner = $1::uuid and is_cancelled)
             as cancelled,
           (select greatest(0, extract(epoch from due_time - clock_timestamp()) * 1000)
               ::double precision
             from run_claims where due_time > now() order by due_time limit 1) as "nextDueMs"`,
        [owner],
      ),
    { name: "lookForDue", signal, isOneRead: true },
  )
}

interface Ring {
  readonly due: readonly RunKey[]
  readonly seen: string | null
}

/** What is due in the workspaces that have their turn after this one, the longest due first. */
function readRing(
  database: Database,
  after: string,
  limit: number,
  signal: AbortSignal,
): Promise<Ring> {
  return database.control(
    [],
    (tx) =>
      tx.one<Ring>(
        `with recursive ring (workspace_id, n) as (
           (select workspace_id, 1 from run_claims where workspace_id > $1::uuid
            order by workspace_id limit 1)
           union all
           select following.workspace_id, ring.n + 1
           from ring, lateral (
             select c.workspace_id from run_claims c where c.workspace_id > ring.workspace_id
             order by c.workspace_id limit 1) following
           where ring.n < ${ringSize}
         )
         select
           coalesce((select json_agg(json_build_object('workspaceId', c.workspace_id,
               'runId', c.run_id) order by c.due_time)
             from ring, lateral (
               select workspace_id, run_id, due_time from run_claims
               where workspace_id = ring.workspace_id
               order by due_time limit $2::integer) c
             where c.due_time <= now()), '[]') as due,
           (select workspace_id::text from ring where n = ${ringSize}) as seen`,
        [after, limit],
      ),
    { name: "lookInTurn", signal, isOneRead: true },
  )
}

interface Taking {
  readonly owner: string
  readonly leaseMs: number
  readonly chosen: readonly RunKey[]
}

function take(
  database: Database,
  { owner, leaseMs, chosen }: Taking,
  signal: AbortSignal,
): Promise<readonly Claim[]> {
  return database.control(
    [],
    (tx) =>
      tx.query<Claim>(
        // Each row by its key alone, whatever the planner believes of how much is due.
        `with free as materialized (
           select c.* from unnest($3::uuid[], $4::uuid[]) as given (workspace_id, run_id),
             lateral (
               select workspace_id, run_id, due_time, owner is not null as is_orphan
               from run_claims
               where workspace_id = given.workspace_id and run_id = given.run_id
               for update skip locked) c
         )
         update run_claims c set owner = $1::uuid, epoch = c.epoch + 1,
           due_time = now() + $2::double precision * interval '1 millisecond'
         from free where c.workspace_id = free.workspace_id and c.run_id = free.run_id
           and free.due_time <= now()
         returning c.workspace_id as "workspaceId", c.run_id as "runId", c.epoch, c.crashes,
           free.is_orphan as "isOrphan"`,
        [
          owner,
          leaseMs,
          chosen.map(({ workspaceId }) => workspaceId),
          chosen.map(({ runId }) => runId),
        ],
      ),
    { name: "claimDue", signal },
  )
}

/**
 * Notes that this owner is about to do something about a run, and answers how many owners have
 * vanished over that where it stands, counting the last one: progress forgives those before it.
 */
export async function accuse(tx: Tx, claim: ClaimKey, place: string): Promise<number> {
  const row = await tx.maybe<{ readonly crashes: number }>(
    `update run_claims set place = $4::text,
       crashes = case when place = $4::text then crashes + 1 else 1 end
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint
     returning crashes`,
    [claim.workspaceId, claim.runId, claim.epoch, place],
  )
  return row?.crashes ?? 0
}

/** Forgets what was counted: the run has moved on, and its owner lives. */
export async function forgive(tx: Tx, claim: ClaimKey): Promise<void> {
  await tx.query(
    `update run_claims set crashes = 0
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint`,
    [claim.workspaceId, claim.runId, claim.epoch],
  )
}

/** The right to a run under one epoch. */
export type ClaimKey = Pick<Claim, "workspaceId" | "runId" | "epoch">

/** Renews leases; answers the runs that are still this owner's. */
export async function renewLeases(
  database: Database,
  owner: string,
  leaseMs: number,
  runs: readonly ClaimKey[],
): Promise<ReadonlySet<string>> {
  // In the order in which changes lock them: a lease never waits in a circle.
  const sorted = runs.toSorted(compareRuns)
  const rows = await database.control(
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
          sorted.map(({ workspaceId }) => workspaceId),
          sorted.map(({ runId }) => runId),
          sorted.map(({ epoch }) => epoch),
        ],
      ),
    { name: "renewLeases" },
  )
  return new Set(rows.map(({ runId }) => runId))
}

/** How a run is given back: when it is due again, and whether its owner failed over it. */
export interface Release {
  readonly due: { readonly afterMs: number } | { readonly at: Date }
  /** A failure may have been counted already, before it happened. */
  readonly failure: "none" | "to_count" | "counted"
}

/** Gives a run back. Does nothing where it is another owner's by now. */
export async function releaseClaim(
  tx: Tx,
  claim: ClaimKey,
  { due, failure }: Release,
): Promise<void> {
  await tx.query(
    `update run_claims set owner = null,
       crashes = case $6::text when 'none' then 0 when 'counted' then crashes else crashes + 1 end,
       due_time = case when $4::timestamptz is not null then $4::timestamptz
         else now() + $5::double precision * interval '1 millisecond' end
     where workspace_id = $1::uuid and run_id = $2::uuid and epoch = $3::bigint`,
    [
      claim.workspaceId,
      claim.runId,
      claim.epoch,
      "at" in due ? due.at : null,
      "afterMs" in due ? due.afterMs : 0,
      failure,
    ],
  )
}

/**
 * What an owner does that lost its lease and lives: where it was counted as vanished, by itself before
 * it did something or by its successor, that is taken back; and a run that nobody has taken yet is due
 * at once.
 */
export async function outliveLease(tx: Tx, claim: ClaimKey, isAccused: boolean): Promise<void> {
  await tx.query(
    `update run_claims set
       owner = case when epoch > $3::bigint then owner end,
       due_time = case when epoch > $3::bigint then due_time else least(due_time, now()) end,
       crashes = case when epoch > $3::bigint or $4::boolean then greatest(crashes - 1, 0)
         else crashes end
     where workspace_id = $1::uuid and run_id = $2::uuid
       and (epoch > $3::bigint or owner is not null)`,
    [claim.workspaceId, claim.runId, claim.epoch, isAccused],
  )
}

/** Forgets the claim of a run that needs no owner any more. */
export async function dropClaim(tx: Tx, claim: ClaimKey): Promise<void> {
  await tx.query(
    `delete from run_claims c where c.workspace_id = $1::uuid and c.run_id = $2::uuid
       and c.epoch = $3::bigint and not exists (
         select from runs r where r.workspace_id = $1::uuid and r.run_id = $2::uuid
           and r.end_time is null)`,
    [claim.workspaceId, claim.runId, claim.epoch],
  )
}
