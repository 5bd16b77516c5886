import { createHash } from "node:crypto"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { Connection } from "./database.ts"

/** Where the SQL files of a service are and for which roles they are written. */
export interface MigrationSource {
  /** The absolute folder of the service's own files; those of the mesh run before them. */
  readonly folder: string
  readonly appUrl: string
  readonly workerUrl: string
}

/** The schema and the code do not fit together; the message says what to do. */
export class SchemaError extends Error {
  override name = "SchemaError"
}

interface Migration {
  readonly id: string
  readonly sql: string
  readonly checksum: string
}

interface Applied {
  readonly id: string
  readonly checksum: string
}

const lockKey = 7_401_926_551
const lockWaitMs = 60_000
const meshFolder = join(import.meta.dirname, "migrations")
const filePattern = /^\d{4}_[a-z0-9_]+\.sql$/

/**
 * Applies what is missing, each file in a transaction of its own whose first statement claims its
 * id, and returns the ids. Any number of processes may do so at once: one works, the others poll.
 * Refuses a database that knows more than the code, and a file that was edited after it was applied.
 */
export async function migrate(
  owner: Connection,
  source: MigrationSource,
  signal?: AbortSignal,
): Promise<readonly string[]> {
  const migrations = await readMigrations(source)
  await lock(owner, signal)
  try {
    await owner.query("create schema if not exists runwarden")
    await owner.query(`create table if not exists runwarden.migrations (
      id text primary key, checksum text not null, apply_time timestamptz not null default now())`)
    const missing = pending(migrations, await readApplied(owner))
    for (const migration of missing) await apply(owner, migration)
    return missing.map((migration) => migration.id)
  } finally {
    await owner.query("select pg_advisory_unlock($1::bigint)", [lockKey])
  }
}

/** Throws a SchemaError unless everything that the code needs is applied as it is written. */
export async function verifyMigrated(reader: Connection, source: MigrationSource): Promise<void> {
  const [exists] = await reader.query<{ found: boolean }>(
    "select to_regclass('runwarden.migrations') is not null as found",
  )
  const applied = exists?.found === true ? await readApplied(reader) : []
  const missing = pending(await readMigrations(source), applied)
  if (missing.length === 0) return
  throw new SchemaError(
    `the schema is older than the code: ${missing.map((migration) => migration.id).join(", ")} ` +
      "not applied. Start once with the owner's database URL, which migrates, then again.",
  )
}

/** A digest of all files that a service's schema is made of, for caches of migrated databases. */
export async function migrationsDigest(source: MigrationSource): Promise<string> {
  const hash = createHash("sha256")
  for (const { id, checksum } of await readMigrations(source)) hash.update(`${id} ${checksum}\n`)
  return hash.digest("hex")
}

async function readMigrations(source: MigrationSource): Promise<readonly Migration[]> {
  const roles = { app: roleOf(source.appUrl), worker: roleOf(source.workerUrl) }
  return [
    ...(await readFolder("mesh", meshFolder, roles)),
    ...(await readFolder("service", source.folder, roles)),
  ]
}

async function readFolder(
  origin: string,
  folder: string,
  roles: { readonly app: string; readonly worker: string },
): Promise<readonly Migration[]> {
  const files = (await readdir(folder)).filter((file) => file.endsWith(".sql")).sort()
  const numbers = new Set(files.map((file) => file.slice(0, 4)))
  if (numbers.size !== files.length || !files.every((file) => filePattern.test(file))) {
    throw new SchemaError(`${folder}: files must be NNNN_verb_noun.sql, each number used once`)
  }
  return Promise.all(
    files.map(async (file) => {
      const text = await readFile(join(folder, file), "utf8")
      const sql = text
        .replaceAll(/:app_role\b/g, roles.app)
        .replaceAll(/:worker_role\b/g, roles.worker)
      const checksum = createHash("sha256").update(text).digest("hex")
      return { id: `${origin}/${file.slice(0, -".sql".length)}`, sql, checksum }
    }),
  )
}

/** What is in the code and not in the database, once the two are known to fit together. */
function pending(
  migrations: readonly Migration[],
  applied: readonly Applied[],
): readonly Migration[] {
  const known = new Map(migrations.map((migration) => [migration.id, migration]))
  for (const { id, checksum } of applied) {
    const migration = known.get(id)
    if (migration === undefined) {
      throw new SchemaError(`the database is newer than the code: it has ${id}. Deploy newer code.`)
    }
    if (migration.checksum !== checksum) {
      throw new SchemaError(
        `${id} was edited after it was applied. Restore it and put the change into a new file.`,
      )
    }
  }
  const done = new Set(applied.map(({ id }) => id))
  return migrations.filter((migration) => !done.has(migration.id))
}

async function apply(owner: Connection, migration: Migration): Promise<void> {
  try {
    await owner.query("begin; set local lock_timeout = '2s'")
    await owner.query("insert into runwarden.migrations (id, checksum) values ($1, $2)", [
      migration.id,
      migration.checksum,
    ])
    await owner.query(migration.sql)
    await owner.query("commit")
  } catch (error) {
    await owner.query("rollback").catch(() => {})
    throw new SchemaError(`migration ${migration.id} failed: ${String(error)}`, { cause: error })
  }
}

function readApplied(reader: Connection): Promise<readonly Applied[]> {
  return reader.query<Applied>("select id, checksum from runwarden.migrations order by id")
}

/** Polls: a blocking advisory lock would hold a snapshot that concurrent index builds wait for. */
async function lock(owner: Connection, signal: AbortSignal | undefined): Promise<void> {
  const giveUp = AbortSignal.timeout(lockWaitMs)
  for (;;) {
    const [row] = await owner.query<{ locked: boolean }>(
      "select pg_try_advisory_lock($1::bigint) as locked",
      [lockKey],
    )
    if (row?.locked === true) return
    signal?.throwIfAborted()
    if (giveUp.aborted) throw new SchemaError("another process has been migrating for a minute")
    await sleep(50 + Math.random() * 100)
  }
}

function roleOf(url: string): string {
  const role = decodeURIComponent(new URL(url).username)
  return `"${role.replaceAll('"', '""')}"`
}
