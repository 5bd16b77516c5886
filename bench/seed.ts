/**
 * A database that has been in use for a month: a million runs that have ended, and a hundred
 * thousand that wait for a person. One real run of each kind and workspace is copied by SQL in every
 * database, with ids and times of its own; hashes of the copies are those of the original.
 *
 * 1. A copy's id is made from the original's and its number, so that what belongs together in
 *    several tables and databases still does, and it sorts by time as a new one would.
 * 2. What waits has ten years left, so that a seed that is kept does not expire.
 * 3. A seed that is kept is migrated like any database, and made anew only where that is refused.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { type Connection, connect } from "../mesh/database.ts"
import { serviceNames } from "../mesh/identity.ts"
import { migrate, SchemaError } from "../mesh/migrations.ts"
import { type BenchDatabases, type BenchServer, databaseNameOf, urlOf } from "./bench-server.ts"
import type { AcknowledgedRun, BenchMembers } from "./run-starter.ts"
import { startSubject } from "./subject-process.ts"

export interface SeedSize {
  readonly finished: number
  readonly waiting: number
}

/** One run per workspace to make copies of. */
export interface SeedRuns {
  readonly members: readonly BenchMembers[]
  readonly finished: readonly AcknowledgedRun[]
  readonly waiting: readonly AcknowledgedRun[]
}

interface SeedRecord extends SeedSize {
  readonly members: readonly BenchMembers[]
}

interface Copying {
  readonly originals: readonly AcknowledgedRun[]
  readonly copiesEach: number
  readonly isWaiting: boolean
}

interface Column {
  readonly table: string
  readonly name: string
  readonly type: string
}

const set = "seeded"
const copiesAtOnce = 10_000
const month = "30 days"

/** Makes the seed, or finds the one that is there and fits the code. Returns whose it is. */
export async function ensureSeed(
  server: BenchServer,
  dataFolder: string,
  size: SeedSize,
  tell: (what: string) => void,
): Promise<{ readonly databases: BenchDatabases; readonly members: readonly BenchMembers[] }> {
  const file = path.join(dataFolder, "seed.json")
  const known = readRecord(file)
  if (known?.finished === size.finished && known.waiting === size.waiting) {
    const databases = await server.databases(set)
    if (await isUsable(databases)) return { databases, members: known.members }
  }
  rmSync(file, { force: true })
  tell("seed: the runs that are copied")
  await server.drop(set)
  const databases = await server.databases(set)
  const { members, finished, waiting } = await performOriginals(server, databases)
  const parts: readonly Copying[] = [
    { originals: finished, copiesEach: size.finished / finished.length, isWaiting: false },
    { originals: waiting, copiesEach: size.waiting / waiting.length, isWaiting: true },
  ]
  const urls = [
    ...serviceNames.map((service) => databaseNameOf(databases.services[service])),
    path.basename(databases.effectsUrl),
  ].map((database) => urlOf(server.adminUrl, database))
  for (const url of urls) await copyRuns(url, parts, tell)
  const record: SeedRecord = { ...size, members }
  writeFileSync(file, JSON.stringify(record), { mode: 0o600 })
  return { databases, members }
}

function readRecord(file: string): SeedRecord | undefined {
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as SeedRecord) : undefined
}

/** (3) */
async function isUsable({ services }: BenchDatabases): Promise<boolean> {
  for (const service of serviceNames) {
    const { ownerUrl, appUrl, workerUrl } = services[service]
    const folder = path.join(import.meta.dirname, "..", "services", service, "migrations")
    await using owner = await connect(ownerUrl)
    try {
      await migrate(owner, { folder, appUrl, workerUrl })
    } catch (error) {
      if (error instanceof SchemaError) return false
      throw error
    }
  }
  return true
}

async function performOriginals(
  { adminUrl, postmaster }: BenchServer,
  databases: BenchDatabases,
): Promise<SeedRuns> {
  await using mesh = await startSubject({
    kind: "local",
    databases,
    adminUrl,
    postmaster,
    env: {},
    profileFolder: undefined,
    members: [],
  })
  return await mesh.ask("seed", {})
}

async function copyRuns(
  url: string,
  parts: readonly Copying[],
  tell: (what: string) => void,
): Promise<void> {
  await using connection = await connect(url)
  // No trigger and no foreign key looks at what was there before: the copies keep what holds for it.
  await connection.query("set session_replication_role = replica")
  await connection.query(createSeedId)
  const tables = Map.groupBy(await readColumns(connection), ({ table }) => table)
  for (const part of parts) {
    for (const [table, columns] of tables) {
      await copyTable(connection, columns, part, (done) =>
        tell(
          `seed: ${path.basename(url)}.${table}, ${part.isWaiting ? "waiting" : "finished"} runs, ${done} %`,
        ),
      )
    }
    if (tables.has("journal")) await connection.query(moveHeads)
  }
  if (tables.has("approvals")) await connection.query(countOpen)
  tell(`seed: ${path.basename(url)}, vacuum`)
  await connection.query("drop function seed_id")
  await connection.query("vacuum analyze")
}

/** (1): 48 bits of time, then what tells the copies apart. */
const createSeedId = `create or replace function seed_id(id uuid, number bigint, copies bigint)
  returns uuid language sql immutable parallel safe return (
    lpad(to_hex((extract(epoch from coalesce(uuid_extract_timestamp(id), now())) * 1000)::bigint
      - (copies - number + 1) * (30::bigint * 86400000 / copies)), 12, '0')
    || '7' || substr(md5(id::text || number), 1, 3) || '8' || substr(md5(id::text || number), 5, 15)
  )::uuid`

/** What a head says is where its journal ends, and all of it is known to telemetry. */
const moveHeads = `update journal_heads h set position = j.position, delivered_position = j.position
  from (select workspace_id, max(position) as position from journal group by workspace_id) j
  where j.workspace_id = h.workspace_id`

const countOpen = `update approval_gauges g set open = a.open
  from (select workspace_id, count(*) as open from approvals where state = 'pending' group by 1) a
  where a.workspace_id = g.workspace_id`

/** Under which names a table has the run that its rows belong to. */
const runColumns = ["run_id", "record_id"]

/** The columns of every table whose rows belong to a run. */
function readColumns(connection: Connection): Promise<readonly Column[]> {
  return connection.query<Column>(
    `
    select c.relname as "table", a.attname as name, format_type(a.atttypid, null) as type
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
      and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
      and exists (select from pg_attribute k where k.attrelid = c.oid and k.attname = 'workspace_id')
      and exists (select from pg_attribute k where k.attrelid = c.oid
        and k.attname = any ($1::text[]))
    order by c.relname, a.attnum`,
    [runColumns],
  )
}

async function copyTable(
  connection: Connection,
  columns: readonly Column[],
  { originals, copiesEach, isWaiting }: Copying,
  tell: (percent: number) => void,
): Promise<void> {
  const [{ table } = { table: "" }] = columns
  const run = columns.find(({ name }) => runColumns.includes(name))?.name
  const names = columns.map(({ name }) => `"${name}"`).join()
  const values = columns.map((column) => copiedValue(column, isWaiting)).join()
  for (const [index, { workspaceId, runId }] of originals.entries()) {
    for (let done = 0; done < copiesEach; done += copiesAtOnce) {
      await connection.query(
        `with original as materialized (
           select *, row_number() over () as seed_rank, count(*) over () as seed_count
           from "${table}" where workspace_id = $1::uuid and ${run} = $2::uuid)
         insert into "${table}" (${names})
         select ${values} from original o, generate_series($3::bigint, $4::bigint) as n`,
        [workspaceId, runId, done + 1, Math.min(done + copiesAtOnce, copiesEach), copiesEach],
      )
    }
    tell(Math.round(((index + 1) / originals.length) * 100))
  }
}

function copiedValue({ table, name, type }: Column, isWaiting: boolean): string {
  const old = `o."${name}"`
  if (name === "workspace_id") return old
  if (name === "owner") return "null"
  if (type === "uuid") return `seed_id(${old}, n, $5::bigint)`
  if (name === "idempotency_key") {
    return `replace(${old}, o.run_id::text, seed_id(o.run_id, n, $5::bigint)::text)`
  }
  if (table === "journal" && name === "position") {
    // Below the originals' own head the copies take the next places, in their order.
    return `(select position from journal_heads h where h.workspace_id = o.workspace_id)
      + (n - 1) * o.seed_count + o.seed_rank`
  }
  if (name.endsWith("_micros")) {
    return `${old} - ($5::bigint - n + 1) * (30::bigint * 86400000000 / $5::bigint)`
  }
  if (type === "timestamp with time zone") {
    const isAwaited = isWaiting && ["deadline", "expire_time", "due_time"].includes(name)
    return isAwaited
      ? `${old} + interval '10 years'` // (2)
      : `${old} - ($5::bigint - n + 1) * (interval '${month}' / $5::bigint)`
  }
  return old
}
