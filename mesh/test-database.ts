import { randomBytes } from "node:crypto"
import { mkdtempSync, realpathSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Connection, connect, type DatabaseConfig } from "./database.ts"
import { startEmbeddedPostgres } from "./embedded-postgres.ts"
import type { ServiceName } from "./identity.ts"
import { migrate, migrationsDigest } from "./migrations.ts"
import {
  createDatabase,
  databaseConfig,
  derivedPasswords,
  type PasswordOf,
  provisionRoles,
} from "./provision-databases.ts"

/** The environment variables by which a test run tells its workers its server and its name. */
export const testServerVariable = "RUNWARDEN_TEST_SERVER_URL"
export const testRunVariable = "RUNWARDEN_TEST_RUN"

/** A database of its own for one test file: migrated, empty, dropped at the end. */
export type TestDatabase = Required<DatabaseConfig> & AsyncDisposable

/** Where the migrations of a service lie; given only by tests that bring their own. */
export interface TestDatabaseOptions {
  readonly migrations?: string
  readonly poolSize?: number
}

const templateLock = 7_401_926_554
const servicesFolder = join(import.meta.dirname, "..", "services")

/**
 * Starts the server of a test run, or uses the one that DATABASE_URL names, and says which in one
 * line. Disposal leaves nothing behind.
 */
export async function startTestServer(databaseUrl: string | undefined): Promise<TestServer> {
  const run = `runwarden_test_${randomBytes(4).toString("hex")}`
  if (databaseUrl !== undefined && databaseUrl !== "") {
    console.log(`tests use the PostgreSQL that DATABASE_URL names: ${new URL(databaseUrl).host}`)
    return { run, url: databaseUrl, [Symbol.asyncDispose]: () => dropAll(databaseUrl, run) }
  }
  console.log("tests use an embedded PostgreSQL; set DATABASE_URL to use another")
  const dataFolder = mkdtempSync(join(realpathSync(tmpdir()), "runwarden-test-"))
  const log = { debug() {}, info() {}, warn: console.warn }
  const server = await startEmbeddedPostgres({
    dataFolder,
    log,
    isDurable: false,
    isTemporary: true,
  })
  return { run, url: server.adminUrl, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

/** The server of a test run, and the name that all its databases begin with. */
export interface TestServer extends AsyncDisposable {
  readonly url: string
  readonly run: string
}

/**
 * A clone of the service's migrated template, which the first caller of a run makes. Roles are the
 * same as in production: owner, app and worker.
 */
export async function testDatabase(
  service: ServiceName,
  options: TestDatabaseOptions = {},
): Promise<TestDatabase> {
  const run = currentRun()
  const folder = options.migrations ?? join(servicesFolder, service, "migrations")
  await using admin = await connect(run.adminUrl)
  const template = await ensureTemplate(admin, run, service, folder)
  return await makeDatabase(admin, run, service, options.poolSize, template)
}

/** A database of the service's roles with nothing in it, for tests of migrations. */
export async function emptyTestDatabase(service: ServiceName): Promise<TestDatabase> {
  const run = currentRun()
  await using admin = await connect(run.adminUrl)
  // Two files at once would change the same row of a role, which Postgres refuses.
  await admin.query("select pg_advisory_lock($1::bigint)", [templateLock])
  await provisionRoles(admin, [service], run.passwordOf)
  await admin.query("select pg_advisory_unlock($1::bigint)", [templateLock])
  return await makeDatabase(admin, run, service)
}

interface TestRun {
  readonly name: string
  readonly adminUrl: string
  readonly passwordOf: PasswordOf
}

function currentRun(): TestRun {
  const adminUrl = process.env[testServerVariable]
  const name = process.env[testRunVariable]
  if (adminUrl === undefined || name === undefined) {
    throw new Error("there is no test server: run the tests with vitest")
  }
  return { name, adminUrl, passwordOf: derivedPasswords(adminUrl) }
}

async function makeDatabase(
  admin: Connection,
  { name, adminUrl, passwordOf }: TestRun,
  service: ServiceName,
  poolSize = 6,
  template?: string,
): Promise<TestDatabase> {
  const database = `${name}_${service}_${randomBytes(6).toString("hex")}`
  await createDatabase(admin, service, database, template)
  const config = databaseConfig(adminUrl, service, { passwordOf, database, poolSize })
  return { ...config, [Symbol.asyncDispose]: () => drop(adminUrl, database) }
}

async function ensureTemplate(
  admin: Connection,
  { name, adminUrl, passwordOf }: TestRun,
  service: ServiceName,
  folder: string,
): Promise<string> {
  const draft = `${name}_draft_${randomBytes(6).toString("hex")}`
  const config = databaseConfig(adminUrl, service, { passwordOf, database: draft })
  const source = { folder, appUrl: config.appUrl, workerUrl: config.workerUrl }
  const template = `${name}_${service}_${(await migrationsDigest(source)).slice(0, 12)}`
  await admin.query("select pg_advisory_lock($1::bigint)", [templateLock])
  if (!(await exists(admin, template))) {
    await provisionRoles(admin, [service], passwordOf)
    await createDatabase(admin, service, draft)
    await migrateOnce(config.ownerUrl, source)
    await admin.query(`alter database "${draft}" rename to "${template}"`)
  }
  await admin.query("select pg_advisory_unlock($1::bigint)", [templateLock])
  return template
}

async function migrateOnce(ownerUrl: string, source: Parameters<typeof migrate>[1]): Promise<void> {
  await using owner = await connect(ownerUrl)
  await migrate(owner, source)
}

async function exists(admin: Connection, database: string): Promise<boolean> {
  const rows = await admin.query("select 1 from pg_database where datname = $1", [database])
  return rows.length > 0
}

async function drop(adminUrl: string, database: string): Promise<void> {
  await using admin = await connect(adminUrl)
  await admin.query(`drop database if exists "${database}" with (force)`)
}

async function dropAll(adminUrl: string, run: string): Promise<void> {
  await using admin = await connect(adminUrl)
  const rows = await admin.query<{ datname: string }>(
    "select datname from pg_database where datname like $1",
    [`${run.replaceAll("_", "\\_")}\\_%`],
  )
  for (const { datname } of rows) {
    await admin.query(`drop database if exists "${datname}" with (force)`)
  }
}
