import { RunwardenError } from "./errors.ts"

/**
 * What a failed transaction means to whoever runs it.
 *
 * - `conflict`: it lost against a concurrent one and was rolled back; repeating it is the cure.
 * - `unreachable`: there is no connection, or it broke.
 * - `overloaded`: the database is there and refuses (no slot, no space, a lock or statement timeout).
 * - `statement`: everything else, which is the business of whoever wrote the statement.
 */
export type DatabaseFault = "conflict" | "unreachable" | "overloaded" | "statement"

const faultsBySqlState: Readonly<Record<string, DatabaseFault>> = {
  "40001": "conflict", // serialization_failure
  "40P01": "conflict", // deadlock_detected
  "25006": "unreachable", // read_only_sql_transaction: an old primary after a failover
  "57P01": "unreachable", // admin_shutdown
  "57P02": "unreachable", // crash_shutdown
  "57P03": "unreachable", // cannot_connect_now
  "57P05": "unreachable", // idle_session_timeout
  "53100": "overloaded", // disk_full
  "53200": "overloaded", // out_of_memory
  "53300": "overloaded", // too_many_connections
  "55P03": "overloaded", // lock_not_available
  "57014": "overloaded", // query_canceled: by the statement timeout, since aborts are seen earlier
}

const brokenSocketCodes: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
])

/** Sorts an error that `pg` threw. */
export function faultOf(error: unknown): DatabaseFault {
  if (!(error instanceof Error)) return "statement"
  const state = sqlStateOf(error)
  if (state !== undefined) {
    if (isStalePlan(error)) return "conflict"
    return state.startsWith("08") ? "unreachable" : (faultsBySqlState[state] ?? "statement")
  }
  if (brokenSocketCodes.has(String(Reflect.get(error, "code")))) return "unreachable"
  if (error instanceof AggregateError)
    return error.errors.some(isUnreachable) ? "unreachable" : "statement"
  // pg gives these no code; the pool's own timeout means that every connection is in use.
  if (error.message === "timeout exceeded when trying to connect") return "overloaded"
  // Repeating it would wait as long again, each time.
  if (isSilence(error)) return "overloaded"
  return /^Connection terminated|not queryable|^Client was closed/.test(error.message)
    ? "unreachable"
    : "statement"
}

/** True when a migration changed the columns of a prepared statement; parsed again, it works. */
export function isStalePlan(error: unknown): boolean {
  return error instanceof Error && Reflect.get(error, "routine") === "RevalidateCachedQuery"
}

/** True when Postgres did not answer at all, not even that a statement took too long. */
export function isSilence(error: unknown): boolean {
  return error instanceof Error && error.message === "Query read timeout"
}

/** What leaves the database module: faults of the database by reason, anything else untouched. */
export function toDatabaseError(error: unknown): unknown {
  const fault = faultOf(error)
  if (fault === "statement" || error instanceof RunwardenError) return error
  return new RunwardenError(
    "DEPENDENCY_UNAVAILABLE",
    { dependency: "database" },
    { cause: error, retryAfterMs: 500 },
  )
}

/** True when a statement broke a unique index or primary key, of this name when one is given. */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  return (
    error instanceof Error &&
    sqlStateOf(error) === "23505" &&
    (constraint === undefined || Reflect.get(error, "constraint") === constraint)
  )
}

/** True when a statement broke a check, or what a trigger checks, of this name. */
export function isCheckViolation(error: unknown, constraint: string): boolean {
  return (
    error instanceof Error &&
    sqlStateOf(error) === "23514" &&
    Reflect.get(error, "constraint") === constraint
  )
}

function isUnreachable(error: unknown): boolean {
  return faultOf(error) === "unreachable"
}

/** True for an error that Postgres itself sent, not one of the way to it. */
export function isReported(error: unknown): boolean {
  return error instanceof Error && sqlStateOf(error) !== undefined
}

/** Only an error that Postgres itself reported has a severity beside its code. */
function sqlStateOf(error: Error): string | undefined {
  const code: unknown = Reflect.get(error, "code")
  return typeof code === "string" && Reflect.has(error, "severity") ? code : undefined
}
