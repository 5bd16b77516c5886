/**
 * Owns: the connections of one service to its own Postgres database. Nothing else imports `pg`.
 */
import pg from "pg"
import { z } from "zod"
import { type Environment, postgresUrl, readEnv } from "./config.ts"
import { toDatabaseError } from "./database-errors.ts"
import type { ServiceName } from "./identity.ts"
import { migrate } from "./migrations.ts"
import { verifySchema } from "./schema-guard.ts"
import type { Runtime } from "./service.ts"
import { transact } from "./transaction.ts"

export { isUniqueViolation } from "./database-errors.ts"

/** Where a service keeps its data. The owner's URL is needed only by whoever migrates. */
export interface DatabaseConfig {
  readonly appUrl: string
  readonly workerUrl: string
  readonly ownerUrl?: string
  /** Connections of requests; workers have half as many of their own. */
  readonly poolSize: number
}

/** One transaction. Statements of one transaction run one after the other. */
export interface Tx {
  query<Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]>
  /** Throws unless there is exactly one row. */
  one<Row>(sql: string, values?: readonly unknown[]): Promise<Row>
  /** Throws when there is more than one row. */
  maybe<Row>(sql: string, values?: readonly unknown[]): Promise<Row | undefined>
  /** The workspace, when the transaction is for exactly one. */
  readonly workspaceId: string | undefined
}

/** `name` is what the transaction's span is called after; `signal` ends it early. */
export interface TransactionOptions {
  readonly signal?: AbortSignal
  readonly name?: string
}

/**
 * A service's database. Transactions lost to a concurrent one, or to a connection that broke before
 * the commit was sent, are repeated with jitter, a few times: `work` may run twice, so it must have
 * no effect outside the transaction. An unreachable database is DEPENDENCY_UNAVAILABLE; a caller
 * that has gone is CANCELLED.
 */
export interface Database extends AsyncDisposable {
  /** As the application's role, for one workspace. */
  tenant<T>(
    workspaceId: string,
    work: (tx: Tx) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>
  /** As the worker's role: claim tables freely, content only of these workspaces. */
  worker<T>(
    workspaceIds: readonly string[],
    work: (tx: Tx) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>
  /** As the application's role without a workspace: only tables that belong to no tenant. */
  shared<T>(work: (tx: Tx) => Promise<T>, options?: TransactionOptions): Promise<T>
  /** Brings the schema to the code's version, as the owner; does nothing without the owner's URL. */
  migrate(signal?: AbortSignal): Promise<void>
  /** Throws a SchemaError that says what to do when it is not safe to serve from this database. */
  verify(): Promise<void>
}

/** What a database is opened with beside its config. */
export interface DatabaseDeps {
  readonly runtime: Pick<Runtime, "name" | "tracer" | "log">
  /** The absolute folder of the service's numbered SQL files. */
  readonly migrations: string
}

/** A single connection outside any pool, for those who administer databases. */
export interface Connection extends AsyncDisposable {
  query<Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]>
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i
const connectTimeoutMs = 2_000
const statementTimeoutMs = 5_000
/** Longer than Postgres takes to give a statement up by itself: who says nothing by then is not there. */
const silenceMs = statementTimeoutMs + 2_000
/** Administration happens while a server starts, on a machine that is busy with just that. */
const adminConnectTimeoutMs = 15_000
const int8Oid = 20
const int8ArrayOid = 1016
const textArrayOid: number = 1009

/**
 * Reads `<SERVICE>_DATABASE_URL`, `<SERVICE>_WORKER_DATABASE_URL`, `<SERVICE>_OWNER_DATABASE_URL`
 * (optional) and `<SERVICE>_DATABASE_POOL_SIZE` (default 10). Throws one error that lists all that
 * is wrong.
 */
export function readDatabaseConfig(service: ServiceName, env: Environment): DatabaseConfig {
  const prefix = service.toUpperCase()
  const names = {
    app: `${prefix}_DATABASE_URL`,
    worker: `${prefix}_WORKER_DATABASE_URL`,
    owner: `${prefix}_OWNER_DATABASE_URL`,
    poolSize: `${prefix}_DATABASE_POOL_SIZE`,
  }
  const values = readEnv(
    {
      [names.app]: postgresUrl,
      [names.worker]: postgresUrl,
      [names.owner]: postgresUrl.optional(),
      [names.poolSize]: z.coerce.number().int().min(1).max(200).default(10),
    },
    env,
  )
  const ownerUrl = values[names.owner]
  return {
    appUrl: String(values[names.app]),
    workerUrl: String(values[names.worker]),
    poolSize: Number(values[names.poolSize]),
    ...(ownerUrl === undefined ? {} : { ownerUrl: String(ownerUrl) }),
  }
}

/** Opens the pools, which connect when they are first used. */
export function openDatabase(config: DatabaseConfig, deps: DatabaseDeps): Database {
  const app = createPool(config.appUrl, config.poolSize, deps, "app")
  const worker = createPool(config.workerUrl, Math.ceil(config.poolSize / 2), deps, "worker")
  const migrations = { folder: deps.migrations, appUrl: config.appUrl, workerUrl: config.workerUrl }
  const common = (options: TransactionOptions) => ({
    tracer: deps.runtime.tracer,
    spanName: `${deps.runtime.name}.db ${options.name ?? "transaction"}`,
    signal: options.signal,
  })
  return {
    tenant(workspaceId, work, options = {}) {
      const begin = `begin; select set_config('runwarden.workspace_id', '${uuid(workspaceId)}', true)`
      return transact({ ...common(options), pool: app, begin, workspaceId }, work)
    },
    worker(workspaceIds, work, options = {}) {
      const ids = workspaceIds.map(uuid)
      const begin = `begin; select set_config('runwarden.workspace_ids', '{${ids.join(",")}}', true)`
      const workspaceId = ids.length === 1 ? ids[0] : undefined
      return transact({ ...common(options), pool: worker, begin, workspaceId }, work)
    },
    shared(work, options = {}) {
      return transact(
        { ...common(options), pool: app, begin: "begin", workspaceId: undefined },
        work,
      )
    },
    async migrate(signal) {
      if (config.ownerUrl === undefined) return
      await using owner = await connect(config.ownerUrl, { name: `${deps.runtime.name} migrate` })
      const applied = await migrate(owner, migrations, signal)
      if (applied.length > 0) deps.runtime.log.info({ migrations: applied }, "database migrated")
    },
    async verify() {
      await using asApp = await connect(config.appUrl, { name: `${deps.runtime.name} verify` })
      await using asWorker = await connect(config.workerUrl, {
        name: `${deps.runtime.name} verify`,
      })
      await verifySchema({ app: asApp, worker: asWorker }, migrations)
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([app.end(), worker.end()])
    },
  }
}

/** Connects once, outside any pool. Errors are those of the database module. */
export async function connect(
  url: string,
  options: { readonly name?: string; readonly database?: string } = {},
): Promise<Connection> {
  const target = new URL(url)
  if (options.database !== undefined) target.pathname = `/${encodeURIComponent(options.database)}`
  const client = new pg.Client({
    connectionString: target.href,
    connectionTimeoutMillis: adminConnectTimeoutMs,
    keepAlive: true,
    application_name: `runwarden ${options.name ?? "admin"}`,
    types: { getTypeParser },
  })
  // A connection that breaks between two statements is an event; the next statement fails by itself.
  client.on("error", () => {})
  const run = async <Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]> => {
    try {
      const result = await client.query(sql, values === undefined ? undefined : [...values])
      return result.rows as readonly Row[]
    } catch (error) {
      throw toDatabaseError(error)
    }
  }
  try {
    await client.connect()
  } catch (error) {
    throw toDatabaseError(error)
  }
  return { query: run, [Symbol.asyncDispose]: () => client.end() }
}

function createPool(url: string, size: number, deps: DatabaseDeps, role: string): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: size,
    application_name: `runwarden ${deps.runtime.name} ${role}`,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    query_timeout: silenceMs,
    lock_timeout: 2_000,
    idle_in_transaction_session_timeout: 10_000,
    keepAlive: true,
    types: { getTypeParser },
  })
  const onError = (error: Error) => deps.runtime.log.warn({ err: error, role }, "connection lost")
  pool.on("error", onError)
  // The pool listens only to idle connections; one that breaks while it is out must not end the process.
  pool.on("connect", (client) => client.on("error", () => {}))
  return pool
}

/** int8 as a number while it is exact and as a bigint beyond; everything else as `pg` does. */
function getTypeParser(oid: number, format?: "text" | "binary"): (value: string) => unknown {
  if (format !== "binary" && oid === int8Oid) return parseInt8
  if (format !== "binary" && oid === int8ArrayOid) {
    const parseArray: (value: string) => (string | null)[] = pg.types.getTypeParser(textArrayOid)
    return (value) => parseArray(value).map((item) => (item === null ? null : parseInt8(item)))
  }
  return pg.types.getTypeParser(oid, format as "text")
}

function parseInt8(value: string): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : BigInt(value)
}

function uuid(value: string): string {
  if (!uuidPattern.test(value)) throw new TypeError("a workspace id must be a UUID")
  return value
}
