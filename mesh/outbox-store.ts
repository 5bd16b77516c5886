import type { Database, Tx } from "./database.ts"

/** One thing to send, as the sender's topic understands it. */
export interface OutboxItem {
  /** UUIDv7; receivers recognise a repetition by it. */
  readonly id: string
  readonly payload: Uint8Array
  /** Only where a worker's transaction is for several workspaces. */
  readonly workspaceId?: string
}

/** A workspace that this drainer may send for, until its lease ends. */
export interface Claim {
  readonly workspaceId: string
  readonly attempts: number
}

interface ItemRow {
  readonly workspace_id: string
  readonly position: number
  readonly item_id: string
  readonly payload: Uint8Array
}

/** What of one workspace is to be sent next, oldest first. */
export interface Batch {
  readonly positions: readonly number[]
  readonly items: readonly OutboxItem[]
}

/** Writes the items and their due rows, in one statement of the caller's transaction. */
export async function enqueue(tx: Tx, topic: string, items: readonly OutboxItem[]): Promise<void> {
  if (items.length === 0) return
  const workspaceIds = items.map((item) => {
    const workspaceId = item.workspaceId ?? tx.workspaceId
    if (workspaceId === undefined) throw new TypeError("an outbox item needs a workspace")
    return workspaceId
  })
  await tx.query(
    `with item as (
       insert into outbox (workspace_id, topic, item_id, payload)
       select given.workspace_id, $1::text, given.item_id, given.payload
       from unnest($2::uuid[], $3::uuid[], $4::bytea[]) with ordinality
         as given (workspace_id, item_id, payload, place)
       order by given.place
       returning workspace_id, position
     )
     insert into outbox_due (workspace_id, topic, position)
     select workspace_id, $1::text, position from item`,
    [
      topic,
      workspaceIds,
      items.map((item) => item.id),
      items.map((item) => toBuffer(item.payload)),
    ],
  )
}

/**
 * Takes up to `limit` waiting workspaces after `after` that nobody has and that are not backing off.
 * `seen` is the last workspace that was looked at, to go on from; undefined at the end of the round.
 */
export async function claimWorkspaces(
  database: Database,
  options: {
    readonly topic: string
    readonly owner: string
    readonly leaseMs: number
    readonly limit: number
    readonly after: string
    readonly pageSize: number
    readonly signal: AbortSignal
  },
): Promise<{ readonly claims: readonly Claim[]; readonly seen: string | undefined }> {
  const { topic, owner, leaseMs, limit, after, pageSize, signal } = options
  const row = await database.worker(
    [],
    (tx) =>
      tx.one<{ claims: readonly Claim[] | null; seen: string | null }>(
        `with recursive waiting (workspace_id, n) as (
           (select workspace_id, 1 from outbox_due
            where topic = $1::text and workspace_id > $5::uuid order by workspace_id limit 1)
           union all
           select following.workspace_id, waiting.n + 1
           from waiting, lateral (
             select d.workspace_id from outbox_due d
             where d.topic = $1::text and d.workspace_id > waiting.workspace_id
             order by d.workspace_id limit 1) as following
           where waiting.n < $6::int
         ), taken as (
           select c.workspace_id from outbox_claims c
           join waiting using (workspace_id)
           where c.topic = $1::text and c.free_time <= clock_timestamp()
           order by c.workspace_id limit $4::int
           for update of c skip locked
         ), fresh as (
           select w.workspace_id from waiting w
           where not exists (select from outbox_claims c
             where c.workspace_id = w.workspace_id and c.topic = $1::text)
           order by w.workspace_id
           limit greatest(0, $4::int - (select count(*) from taken)::int)
         ), renewed as (
           update outbox_claims c
           set owner = $2::uuid, free_time = clock_timestamp() + make_interval(secs => $3::float8 / 1000)
           from taken where c.workspace_id = taken.workspace_id and c.topic = $1::text
           returning c.workspace_id, c.attempts
         ), made as (
           insert into outbox_claims (workspace_id, topic, owner, free_time)
           select workspace_id, $1::text, $2::uuid,
             clock_timestamp() + make_interval(secs => $3::float8 / 1000)
           from fresh order by workspace_id
           on conflict (workspace_id, topic) do nothing
           returning workspace_id, attempts
         )
         select
           (select json_agg(json_build_object('workspaceId', workspace_id, 'attempts', attempts))
            from (select * from renewed union all select * from made)) as claims,
           (select workspace_id from waiting where n = $6::int) as seen`,
        [topic, owner, leaseMs, limit, after, pageSize],
      ),
    { name: "claimOutbox", signal },
  )
  return { claims: row.claims ?? [], seen: row.seen ?? undefined }
}

/** Reads the oldest items of one claimed workspace, up to a count and a size, at least one. */
export async function loadBatch(
  database: Database,
  options: {
    readonly topic: string
    readonly workspaceId: string
    readonly maxItems: number
    readonly maxBytes: number
    readonly signal: AbortSignal
  },
): Promise<Batch> {
  const { topic, workspaceId, maxItems, maxBytes, signal } = options
  const rows = await database.worker(
    [workspaceId],
    (tx) =>
      tx.query<ItemRow>(
        `select workspace_id, position, item_id, payload from (
           select *, sum(length(payload)) over (order by position) - length(payload) as before
           from (select * from outbox where workspace_id = $1::uuid and topic = $2::text
             order by position limit $3::int) as oldest) as sized
         where before = 0 or before + length(payload) <= $4::bigint
         order by position`,
        [workspaceId, topic, maxItems, maxBytes],
      ),
    { name: "loadOutbox", signal },
  )
  return {
    positions: rows.map((row) => row.position),
    items: rows.map((row) => ({ id: row.item_id, payload: row.payload })),
  }
}

/** Deletes what was delivered and gives the workspace back, unless another drainer has it by now. */
export async function settle(
  database: Database,
  options: {
    readonly topic: string
    readonly workspaceId: string
    readonly owner: string
    readonly positions: readonly number[]
  },
): Promise<void> {
  const { topic, workspaceId, owner, positions } = options
  await database.worker(
    [workspaceId],
    (tx) =>
      tx.query(
        `with sent as (
           delete from outbox where workspace_id = $1::uuid and topic = $2::text
             and position = any ($4::bigint[])
         ), due as (
           delete from outbox_due where workspace_id = $1::uuid and topic = $2::text
             and position = any ($4::bigint[])
         )
         delete from outbox_claims
         where workspace_id = $1::uuid and topic = $2::text and owner = $3::uuid`,
        [workspaceId, topic, owner, positions],
      ),
    { name: "settleOutbox" },
  )
}

/** Gives a workspace back after a failure, to be tried again when the back-off is over. */
export async function postpone(
  database: Database,
  options: {
    readonly topic: string
    readonly workspaceId: string
    readonly owner: string
    readonly backOffMs: number
    /** False where the drainer itself stops, which is not the workspace's fault. */
    readonly isFailure: boolean
  },
): Promise<void> {
  const { topic, workspaceId, owner, backOffMs, isFailure } = options
  await database.worker(
    [workspaceId],
    (tx) =>
      tx.query(
        `update outbox_claims set attempts = attempts + $5::int,
           free_time = clock_timestamp() + make_interval(secs => $4::float8 / 1000)
         where workspace_id = $1::uuid and topic = $2::text and owner = $3::uuid`,
        [workspaceId, topic, owner, backOffMs, isFailure ? 1 : 0],
      ),
    { name: "postponeOutbox" },
  )
}

function toBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
