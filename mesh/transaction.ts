/**
 * Owns: one transaction from `begin` to `commit`, `rollback` or, when its connection cannot be
 * trusted any more, its end.
 *
 * 1. The workspace is set by the statement that begins the transaction, and for it alone: Postgres
 *    takes it back at its end, so that a pooled connection never carries one to the next user.
 * 2. A connection goes back to the pool only when Postgres says that it is idle; else it is destroyed.
 * 3. A `Tx` answers nothing after its transaction ended.
 * 4. A caller that has gone holds no connection: its query is cancelled and its connection destroyed.
 * 5. A statement that nobody answers ends, and its connection with it, also where there is no signal.
 * 6. A commit that was sent is not repeated. What fails before it may be, so `work` may run twice.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { SpanKind, type Tracer } from "@opentelemetry/api"
import type pg from "pg"
import type { Tx } from "./database.ts"
import { cancelQuery } from "./database-cancel.ts"
import { faultOf, isSilence, toDatabaseError } from "./database-errors.ts"
import { RunwardenError } from "./errors.ts"
import { inSpan } from "./tracing.ts"

const maxAttempts = 6

/** What a transaction is made of: `begin` is the text that opens it and names its workspace. */
export interface Transaction {
  readonly pool: pg.Pool
  readonly tracer: Tracer
  readonly spanName: string
  readonly begin: string
  readonly workspaceId: string | undefined
  readonly signal: AbortSignal | undefined
}

/** Runs one transaction, again where that is safe and may help, inside one span. */
export async function transact<T>(
  transaction: Transaction,
  work: (tx: Tx) => Promise<T>,
): Promise<T> {
  const { tracer, spanName, signal } = transaction
  const start = { kind: SpanKind.CLIENT, attributes: { "db.system.name": "postgresql" } }
  return inSpan(tracer, spanName, start, async (span) => {
    for (let attempt = 1; ; attempt++) {
      const outcome = await tryOnce(transaction, work)
      if (outcome.kind === "committed") return outcome.value
      if (!outcome.repeatable || attempt >= maxAttempts) throw toDatabaseError(outcome.error)
      span.addEvent("repeated", { "runwarden.db.fault": faultOf(outcome.error) })
      await sleep(Math.random() * 20 * 2 ** attempt, undefined, { signal }).catch(() => {})
    }
  })
}

type Outcome<T> =
  | { readonly kind: "committed"; readonly value: T }
  | { readonly kind: "failed"; readonly error: unknown; readonly repeatable: boolean }

async function tryOnce<T>(
  { pool, begin, workspaceId, signal }: Transaction,
  work: (tx: Tx) => Promise<T>,
): Promise<Outcome<T>> {
  const failed = (error: unknown, repeatable: boolean): Outcome<T> => ({
    kind: "failed",
    error,
    repeatable,
  })
  let client: pg.PoolClient
  try {
    client = await acquire(pool, signal)
  } catch (error) {
    return failed(error, faultOf(error) === "unreachable")
  }
  const session = createSession(client, workspaceId)
  const aborted = Promise.withResolvers<never>()
  aborted.promise.catch(() => {})
  const onAbort = () => {
    session.destroy()
    aborted.reject(cancelled(signal))
  }
  signal?.addEventListener("abort", onAbort, { once: true })
  try {
    if (signal?.aborted === true) onAbort()
    const value = await Promise.race([aborted.promise, session.run(begin, () => work(session.tx))])
    // From here on the answer must be known: the commit is not given up for a caller who has gone.
    signal?.removeEventListener("abort", onAbort)
    await session.commit()
    return { kind: "committed", value }
  } catch (error) {
    // Nothing more can be asked on a connection that does not answer, not even for a rollback.
    if (isSilence(error)) session.destroy()
    else await session.rollback()
    const fault = faultOf(error)
    return failed(error, fault === "conflict" || (fault === "unreachable" && !session.commitSent()))
  } finally {
    signal?.removeEventListener("abort", onAbort)
    session.release()
  }
}

/** One checked-out connection for the length of one transaction. */
function createSession(client: pg.PoolClient, workspaceId: string | undefined) {
  let state: "open" | "committing" | "ended" = "open"
  let released = false
  let last: Promise<unknown> = Promise.resolve()

  const query = <Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]> => {
    const result = last.then(async () => {
      if (state !== "open")
        throw new Error("the transaction has ended; await every statement of it")
      const { rows } = await client.query(sql, values === undefined ? undefined : [...values])
      return rows as readonly Row[]
    })
    last = result.catch(() => {})
    return result
  }
  const maybe = async <Row>(sql: string, values?: readonly unknown[]): Promise<Row | undefined> => {
    const rows = await query<Row>(sql, values)
    if (rows.length > 1) throw new Error(`expected at most one row, got ${rows.length}`)
    return rows[0]
  }
  const one = async <Row>(sql: string, values?: readonly unknown[]): Promise<Row> => {
    const row = await maybe<Row>(sql, values)
    if (row === undefined) throw new Error("expected one row, got none")
    return row
  }
  const release = (broken: boolean) => {
    state = "ended"
    if (released) return
    released = true
    client.release(broken)
  }
  return {
    tx: { query, one, maybe, workspaceId } satisfies Tx,
    commitSent: () => state === "committing",
    async run<T>(begin: string, work: () => Promise<T>): Promise<T> {
      await client.query(begin)
      return work()
    },
    async commit() {
      await last
      if (state !== "open") throw new Error("the transaction has ended")
      state = "committing"
      const { command } = await client.query("commit")
      // Postgres answers ROLLBACK when a statement failed and `work` swallowed its error.
      if (command !== "COMMIT")
        throw new Error("a statement failed: the transaction was rolled back")
    },
    async rollback() {
      if (released) return
      const committing = state === "committing"
      state = committing ? "committing" : "ended"
      await last
      if (released || committing) return
      await client.query("rollback").catch(() => {})
    },
    destroy() {
      if (released) return
      cancelQuery(client)
      release(true)
    },
    release: () => release(client.getTransactionStatus() !== "I"),
  }
}

async function acquire(pool: pg.Pool, signal: AbortSignal | undefined): Promise<pg.PoolClient> {
  if (signal === undefined) return pool.connect()
  if (signal.aborted) throw cancelled(signal)
  const gone = Promise.withResolvers<never>()
  const onAbort = () => gone.reject(cancelled(signal))
  signal.addEventListener("abort", onAbort, { once: true })
  const connecting = pool.connect()
  try {
    return await Promise.race([gone.promise, connecting])
  } catch (error) {
    connecting.then(
      (late) => late.release(),
      () => {},
    )
    throw error
  } finally {
    signal.removeEventListener("abort", onAbort)
  }
}

function cancelled(signal: AbortSignal | undefined): RunwardenError {
  return new RunwardenError("CANCELLED", {}, { cause: signal?.reason })
}
