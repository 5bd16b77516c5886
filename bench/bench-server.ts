/**
 * The one PostgreSQL of a sitting, fsync on, and the databases of whoever is measured on it.
 */
import { chmodSync, mkdtempSync, readFileSync, realpathSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { type Connection, connect, type DatabaseConfig } from "../mesh/database.ts"
import { readPasswords, startEmbeddedPostgres } from "../mesh/embedded-postgres.ts"
import { type ServiceName, serviceNames } from "../mesh/identity.ts"
import { createDatabase, databaseConfig, provisionRoles } from "../mesh/provision-databases.ts"

/** What a mesh, its providers and the floor keep their data in. */
export interface BenchDatabases {
  readonly services: Readonly<Record<ServiceName, Required<DatabaseConfig>>>
  /** Of the two providers. */
  readonly effectsUrl: string
  /** Of the plain code. */
  readonly floorUrl: string
}

export interface BenchServer extends AsyncDisposable {
  readonly adminUrl: string
  readonly version: string
  /** The process under which all of its processes are. */
  readonly postmaster: number
  /** Databases by the name of the set, made empty where they are missing. */
  databases(set: string): Promise<BenchDatabases>
  drop(set: string): Promise<void>
  /**
   * Transactions that have ended in any database, reads and all. Server processes report theirs when
   * they have been idle for ten seconds, so this waits for that.
   */
  transactions(): Promise<number>
}

export interface BenchServerOptions {
  /** Kept at the end; a folder of its own that is removed where there is none. */
  readonly dataFolder: string | undefined
  /** Counts every statement, which costs a little: for profiles. */
  readonly countsStatements: boolean
}

/** As a server that is meant for more than tests is set, so that no checkpoint falls into a round. */
const settings = {
  shared_buffers: "512MB",
  max_wal_size: "8GB",
  checkpoint_timeout: "15min",
}

/** A little longer than a server process keeps what it has not reported yet. */
export const settleMs = 10_500

export async function startBenchServer(options: BenchServerOptions): Promise<BenchServer> {
  const dataFolder = options.dataFolder ?? temporaryFolder()
  const counting = { shared_preload_libraries: "pg_stat_statements" }
  const server = await startEmbeddedPostgres({
    dataFolder,
    log: { debug() {}, info() {}, warn: console.warn },
    isTemporary: options.dataFolder === undefined,
    settings: options.countsStatements ? { ...settings, ...counting } : settings,
  })
  const { adminUrl } = server
  const passwordOf = readPasswords(dataFolder)
  await using admin = await connect(adminUrl)
  await provisionRoles(admin, serviceNames, passwordOf)
  const [shown] = await admin.query<{ server_version: string }>("show server_version")
  return {
    adminUrl,
    version: shown?.server_version ?? "?",
    postmaster: Number(
      readFileSync(join(dataFolder, "postgres", "postmaster.pid"), "utf8").split("\n")[0],
    ),
    async databases(set) {
      await using connection = await connect(adminUrl)
      for (const service of serviceNames) {
        const name = `${service}_${set}`
        if (!(await exists(connection, name))) await createDatabase(connection, service, name)
      }
      for (const name of [`effects_${set}`, `floor_${set}`]) {
        if (!(await exists(connection, name))) await connection.query(`create database ${name}`)
      }
      const services = serviceNames.map((service) => {
        const database = `${service}_${set}`
        return [service, databaseConfig(adminUrl, service, { passwordOf, database })]
      })
      return {
        services: Object.fromEntries(services),
        effectsUrl: urlOf(adminUrl, `effects_${set}`),
        floorUrl: urlOf(adminUrl, `floor_${set}`),
      }
    },
    async transactions() {
      await sleep(settleMs)
      await using connection = await connect(adminUrl)
      const text = "select sum(xact_commit + xact_rollback)::float8 as count from pg_stat_database"
      const [row] = await connection.query<{ count: number }>(text)
      return row?.count ?? Number.NaN
    },
    async drop(set) {
      await using connection = await connect(adminUrl)
      for (const name of [...serviceNames, "effects", "floor"]) {
        await connection.query(`drop database if exists "${name}_${set}" with (force)`)
      }
    },
    async [Symbol.asyncDispose]() {
      if (options.dataFolder !== undefined) await checkpoint(adminUrl)
      await server[Symbol.asyncDispose]()
    },
  }
}

/** A server with much to write would not stop in its time. */
async function checkpoint(adminUrl: string): Promise<void> {
  await using admin = await connect(adminUrl)
  await admin.query("checkpoint")
}

function temporaryFolder(): string {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), "runwarden-bench-"))
  // As root the server runs under another account, which passes through.
  chmodSync(folder, 0o711)
  return folder
}

async function exists(admin: Connection, database: string): Promise<boolean> {
  const rows = await admin.query("select 1 from pg_database where datname = $1", [database])
  return rows.length > 0
}

/** The name of a service's database. */
export function databaseNameOf({ appUrl }: DatabaseConfig): string {
  return new URL(appUrl).pathname.slice(1)
}

export function urlOf(adminUrl: string, database: string): string {
  const url = new URL(adminUrl)
  url.pathname = `/${database}`
  return url.href
}
