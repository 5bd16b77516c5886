/**
 * Owns: the connections of one service to its own Postgres database. Nothing else imports `pg`.
 *
 * Each kind of work has a pool of its own, so that none can starve another: requests, workers,
 * control (claims and heartbeats, which must get through while all the others are busy) and batches.
 */
import pg from "pg"
import { z } from "zod"
import { runBatch } from "./batch.ts"
import { type Environment, postgresUrl, readEnv } from "./config.ts"
import { toDatabaseError } from "./database-errors.ts"
import { createPool, getTypeParser } from "./database-pool.ts"
import type { ServiceName } from "./identity.ts"
import { migrate } from "./migrations.ts"
import type { Step } from "./round-trip.ts"
import { verifySchema } from "./schema-guard.ts"
import type { Runtime } from "./service.ts"
import { transact } from "./transaction.ts"

export { isCheckViolation, isUniqueViolation } from "./database-errors.ts"

/** Where a service keeps its data. The owner's URL is needed only by whoever migrates. */
export interface DatabaseConfig {
  readonly appUrl: string
  readonly workerUrl: string
  readonly ownerUrl?: string
  /** Connections of requests; workers and batches have half as many each of their own. */
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
  /**
   * The transaction is one statement that only reads, which takes one round trip instead of two.
   * Postgres refuses a write, and a second statement fails.
   */
  readonly isOneRead?: boolean
}

/** A statement of batches. `name` is unique in the service: each connection prepares it once. */
export interface Statement {
  readonly name: string
  readonly text: string
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
  /**
   * As the worker's role on connections of its own, for claims and heartbeats: these must get
   * through while content keeps every other connection busy. Plans are made as for batches.
   */
  control<T>(
    workspaceIds: readonly string[],
    work: (tx: Tx) => Promise<T>,
    options?: TransactionOptions,
  ): Promise<T>
  /**
   * As the worker's role, one statement for many rows as a transaction in a single round trip. It
   * runs on connections whose plans are made once, without knowing the parameters, and follow
   * indexes. A lost connection is DEPENDENCY_UNAVAILABLE and leaves open whether the statement had
   * its effect; `signal` counts until it is sent.
   */
  batch<Row>(
    workspaceIds: readonly string[],
    statement: Statement,
    values: readonly unknown[],
    options?: Omit<TransactionOptions, "isOneRead">,
  ): Promise<readonly Row[]>
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
/** A claim or a heartbeat takes a millisecond; two may be under way while one waits for a lock. */
const controlPoolSize = 2
/**
 * While statistics are stale, which they are under load, a join of an array with a large table must
 * not turn into a scan of all of it; and one plan per statement serves every number of rows.
 */
const plannedOnce = {
  plan_cache_mode: "force_generic_plan",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  enable_seqscan: "off",
  enable_bitmapscan: "off",
  enable_material: "off",
  jit: "off",
}
/** Administration happens while a server starts, on a machine that is busy with just that. */
const adminConnectTimeoutMs = 15_000

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
  const { runtime } = deps
  const pool = (url: string, role: string, size: number, settings = {}) =>
    createPool({ url, role, size, runtime, settings })
  const half = Math.ceil(config.poolSize / 2)
  const pools = {
    app: pool(config.appUrl, "app", config.poolSize),
    worker: pool(config.workerUrl, "worker", half),
    control: pool(config.workerUrl, "control", controlPoolSize, plannedOnce),
    batch: pool(config.workerUrl, "batch", half, plannedOnce),
  }
  const migrations = { folder: deps.migrations, appUrl: config.appUrl, workerUrl: config.workerUrl }
  const statements = new Map<string, string>()
  const on = (role: keyof typeof pools, options: TransactionOptions, name = "transaction") => ({
    pool: pools[role],
    tracer: runtime.tracer,
    spanName: `${runtime.name}.db ${options.name ?? name}`,
    signal: options.signal,
    isOneRead: options.isOneRead === true,
  })
  const workAs =
    (role: "worker" | "control"): Database["worker"] =>
    (workspaceIds, work, options = {}) => {
      const workspaceId = workspaceIds.length === 1 ? workspaceIds[0] : undefined
      const begin = [beginning(options), setWorkspaces(workspaceIds)]
      return transact({ ...on(role, options), begin, workspaceId }, work)
    }
  return {
    tenant(workspaceId, work, options = {}) {
      const begin = [beginning(options), setWorkspace(workspaceId)]
      return transact({ ...on("app", options), begin, workspaceId }, work)
    },
    worker: workAs("worker"),
    control: workAs("control"),
    batch(workspaceIds, statement, values, options = {}) {
      remember(statements, statement)
      const steps = [setWorkspaces(workspaceIds), { ...statement, values }]
      return runBatch(on("batch", options, statement.name), steps)
    },
    shared(work, options = {}) {
      return transact(
        { ...on("app", options), begin: [beginning(options)], workspaceId: undefined },
        work,
      )
    },
    async migrate(signal) {
      if (config.ownerUrl === undefined) return
      await using owner = await connect(config.ownerUrl, { name: `${runtime.name} migrate` })
      const applied = await migrate(owner, migrations, signal)
      if (applied.length > 0) runtime.log.info({ migrations: applied }, "database migrated")
    },
    async verify() {
      await using asApp = await connect(config.appUrl, { name: `${runtime.name} verify` })
      await using asWorker = await connect(config.workerUrl, {
        name: `${runtime.name} verify`,
      })
      await verifySchema({ app: asApp, worker: asWorker }, migrations)
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(Object.values(pools).map((each) => each.end()))
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

function beginning(options: TransactionOptions): Step {
  return options.isOneRead === true
    ? { name: "_read", text: "select set_config('transaction_read_only', 'on', true)", values: [] }
    : { name: "_begin", text: "begin", values: [] }
}

function setWorkspace(workspaceId: string): Step {
  const text = "select set_config('runwarden.workspace_id', $1::text, true)"
  return { name: "_workspace", text, values: [uuid(workspaceId)] }
}

function setWorkspaces(workspaceIds: readonly string[]): Step {
  const text = "select set_config('runwarden.workspace_ids', $1::text, true)"
  return { name: "_workspaces", text, values: [`{${workspaceIds.map(uuid).join(",")}}`] }
}

function remember(statements: Map<string, string>, { name, text }: Statement): void {
  const known = statements.get(name)
  if (known === undefined) statements.set(name, text)
  else if (known !== text) throw new TypeError(`there is another statement ${name} already`)
}

function uuid(value: string): string {
  if (!uuidPattern.test(value)) throw new TypeError("a workspace id must be a UUID")
  return value
}
