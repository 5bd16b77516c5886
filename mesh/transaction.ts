/**
 * Owns: one transaction from `begin` to `commit`, `rollback` or, when its connection cannot be
 * trusted any more, its end.
 *
 * 1. The workspace is set where the transaction begins, which is in the round trip of its first
 *    statement, and for it alone: Postgres takes it back at its end, so that a pooled connection
 *    never carries one to the next user.
 * 2. A connection goes back to the pool only when Postgres says that it is idle; else it is destroyed.
 * 3. A `Tx` answers nothing after its transaction ended.
 * 4. A caller that has gone holds no connection: its query is cancelled and its connection destroyed.
 * 5. A statement that nobody answers ends, and its connection with it, also where there is no signal.
 * 6. A commit that was sent is not repeated. What fails before it may be, so `work` may run twice.
 */
import type pg from "pg"
import { acquire, attempt, cancelled, type DatabaseWork, type Outcome } from "./attempts.ts"
import type { Tx } from "./database.ts"
import { cancelQuery } from "./database-cancel.ts"
import { faultOf, isSilence } from "./database-errors.ts"
import { roundTrip, type Step } from "./round-trip.ts"

/** What a transaction is made of: `begin` are the statements that open it and name its workspace. */
export interface Transaction extends DatabaseWork {
  readonly begin: readonly Step[]
  readonly workspaceId: string | undefined
  /** True when nothing is begun: the round trip of the one statement is the transaction. */
  readonly isOneRead: boolean
}

/** Texts that are prepared; there are as many as the stores have statements. */
const maxNames = 1_000
const names = new Map<string, string>()

/** Runs one transaction, again where that is safe and may help, inside one span. */
export function transact<T>(transaction: Transaction, work: (tx: Tx) => Promise<T>): Promise<T> {
  return attempt(transaction, () => tryOnce(transaction, work))
}

async function tryOnce<T>(
  transaction: Transaction,
  work: (tx: Tx) => Promise<T>,
): Promise<Outcome<T>> {
  const { pool, signal } = transaction
  let client: pg.PoolClient
  try {
    client = await acquire(pool, signal)
  } catch (error) {
    return { kind: "failed", error, isRepeatable: faultOf(error) === "unreachable" }
  }
  const session = createSession(client, transaction)
  const aborted = Promise.withResolvers<never>()
  aborted.promise.catch(() => {})
  const onAbort = () => {
    session.destroy()
    aborted.reject(cancelled(signal))
  }
  signal?.addEventListener("abort", onAbort, { once: true })
  try {
    if (signal?.aborted === true) onAbort()
    const value = await Promise.race([aborted.promise, work(session.tx)])
    // From here on the answer must be known: the commit is not given up for a caller who has gone.
    signal?.removeEventListener("abort", onAbort)
    await session.commit()
    return { kind: "done", value }
  } catch (error) {
    // Nothing more can be asked on a connection that does not answer, not even for a rollback.
    if (isSilence(error)) session.destroy()
    else await session.rollback()
    const fault = faultOf(error)
    const isUndone = fault === "unreachable" && !session.commitSent()
    return { kind: "failed", error, isRepeatable: fault === "conflict" || isUndone }
  } finally {
    signal?.removeEventListener("abort", onAbort)
    session.release()
  }
}

/** One checked-out connection for the length of one transaction. */
function createSession(client: pg.PoolClient, { begin, workspaceId, isOneRead }: Transaction) {
  let state: "open" | "committing" | "ended" = "open"
  let released = false
  let hasBegun = false
  let last: Promise<unknown> = Promise.resolve()

  const run = async <Row>(text: string, values: readonly unknown[] | undefined) => {
    if (state !== "open") throw new Error("the transaction has ended; await every statement of it")
    if (hasBegun && isOneRead) throw new Error("this transaction has one statement, which reads")
    const opening = hasBegun ? [] : begin
    hasBegun = true
    if (values !== undefined || isOneRead) {
      return roundTrip<Row>(client, [...opening, toStep(text, values)])
    }
    // Without parameters a text may hold several statements, which only a simple query takes.
    if (opening.length > 0) await roundTrip(client, opening)
    const { rows } = await client.query(text)
    return rows as readonly Row[]
  }
  const query = <Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]> => {
    const result = last.then(() => run<Row>(sql, values))
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
    async commit() {
      await last
      if (state !== "open") throw new Error("the transaction has ended")
      if (!hasBegun || isOneRead) return
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
      if (released || committing || !hasBegun || isOneRead) return
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

/** A statement under a name by which its connection knows it the next time. */
function toStep(text: string, values: readonly unknown[] = []): Step {
  const name = names.get(text)
  if (name !== undefined) return { name, text, values }
  if (names.size >= maxNames) return { text, values }
  const next = `_${names.size}`
  names.set(text, next)
  return { name: next, text, values }
}
