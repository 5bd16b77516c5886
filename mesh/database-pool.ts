import pg from "pg"
import type { Runtime } from "./service.ts"

/** `role` says in logs and in pg_stat_activity what the connections are for. */
export interface PoolOptions {
  readonly url: string
  readonly size: number
  readonly role: string
  readonly runtime: Pick<Runtime, "name" | "log">
  /** Settings of every connection, as Postgres takes them in `options`. */
  readonly settings?: Readonly<Record<string, string>>
}

const connectTimeoutMs = 2_000
const statementTimeoutMs = 5_000
/** Longer than Postgres takes to give a statement up by itself: who says nothing by then is not there. */
const silenceMs = statementTimeoutMs + 2_000
const int8Oid = 20
const int8ArrayOid = 1016
const textArrayOid: number = 1009

/** A pool that connects when it is first used and survives the loss of any of its connections. */
export function createPool({ url, size, role, runtime, settings = {} }: PoolOptions): pg.Pool {
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`)
  const pool = new pg.Pool({
    connectionString: url,
    max: size,
    application_name: `runwarden ${runtime.name} ${role}`,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    query_timeout: silenceMs,
    lock_timeout: 2_000,
    idle_in_transaction_session_timeout: 10_000,
    keepAlive: true,
    types: { getTypeParser },
    ...(options.length === 0 ? {} : { options: options.join(" ") }),
  })
  const onError = (error: Error) => runtime.log.warn({ err: error, role }, "connection lost")
  pool.on("error", onError)
  // The pool listens only to idle connections; one that breaks while it is out must not end the process.
  pool.on("connect", (client) => client.on("error", () => {}))
  return pool
}

/** int8 as a number while it is exact and as a bigint beyond; everything else as `pg` does. */
export function getTypeParser(oid: number, format?: "text" | "binary"): (value: string) => unknown {
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
