/**
 * Two orders in every workspace, and what was done with them, in one SQLite file.
 *
 * A call is recorded by its key, with its answer: a note in the transaction that writes the note, so
 * that it is there once or not at all. A refund is recorded before money moves, and its answer after
 * that: one that is recorded without an answer was interrupted, and nobody pays again.
 */
import { DatabaseSync } from "node:sqlite"
import type { JsonObject } from "@bufbuild/protobuf"

/** An `error` is the tool's own word ("there is no such order"), and final like a result. */
export type Answer =
  | { readonly result: JsonObject }
  | { readonly error: { readonly reason: string; readonly message: string } }

/** What others do for the orders service. */
export interface Partners {
  lookUp(signal: AbortSignal): Promise<void>
  pay(cents: number): Promise<void>
}

const totals: Readonly<Record<string, number>> = { "A-1001": 4_900, "A-1002": 12_000 }

const schema = `
  create table if not exists notes (workspace_id text, order_id text, note text) strict;
  create table if not exists refunds (workspace_id text, order_id text, cents integer) strict;
  create table if not exists calls (
    workspace_id text, key text, answer text, primary key (workspace_id, key)
  ) strict;
`

export class Orders {
  readonly #database: DatabaseSync
  readonly #partners: Partners

  constructor(file: string, partners: Partners) {
    this.#partners = partners
    this.#database = new DatabaseSync(file)
    this.#database.exec(schema)
  }

  async get(workspaceId: string, orderId: string, signal: AbortSignal): Promise<Answer> {
    // Ends here where the caller has given up, or its deadline has passed.
    await this.#partners.lookUp(signal)
    return this.#order(workspaceId, orderId)
  }

  note(workspaceId: string, key: string, orderId: string, text: string): Answer {
    return this.#transaction(() => {
      const known = this.outcome(workspaceId, key)
      if (known === "unknown") throw new Error("the call was begun before")
      if (known !== undefined) return known
      if (orderId in totals) {
        this.#run("insert into notes values (?, ?, ?)", workspaceId, orderId, text)
      }
      const answer = this.#order(workspaceId, orderId)
      this.#run("insert into calls values (?, ?, ?)", workspaceId, key, JSON.stringify(answer))
      return answer
    })
  }

  async refund(workspaceId: string, key: string, orderId: string, cents: number): Promise<Answer> {
    const answered = this.#transaction(() => {
      const known = this.outcome(workspaceId, key)
      if (known === "unknown") throw new Error("the call was begun before")
      if (known !== undefined) return known
      const refusal = this.#refusal(workspaceId, orderId, cents)
      const record = refusal === undefined ? null : JSON.stringify(refusal)
      this.#run("insert into calls values (?, ?, ?)", workspaceId, key, record)
      if (refusal === undefined) {
        this.#run("insert into refunds values (?, ?, ?)", workspaceId, orderId, cents)
      }
      return refusal
    })
    if (answered !== undefined) return answered
    // What has begun is finished and recorded, also where the caller does not wait for it.
    await this.#partners.pay(cents)
    const answer = this.#order(workspaceId, orderId)
    const update = "update calls set answer = ? where workspace_id = ? and key = ?"
    this.#run(update, JSON.stringify(answer), workspaceId, key)
    return answer
  }

  /** The recorded answer; "unknown" for a call without one, undefined for one never heard of. */
  outcome(workspaceId: string, key: string): Answer | "unknown" | undefined {
    const find = "select answer from calls where workspace_id = ? and key = ?"
    const row = this.#database.prepare(find).get(workspaceId, key)
    if (row === undefined) return undefined
    return row.answer === null ? "unknown" : JSON.parse(String(row.answer))
  }

  #order(workspaceId: string, orderId: string): Answer {
    const total = totals[orderId]
    if (total === undefined) return failure("order_not_found", `There is no order ${orderId}.`)
    const sum = "select sum(cents) as sum from refunds where workspace_id = ? and order_id = ?"
    const refunded = Number(this.#database.prepare(sum).get(workspaceId, orderId)?.sum ?? 0)
    const find = "select note from notes where workspace_id = ? and order_id = ? order by rowid"
    const notes = this.#database.prepare(find).all(workspaceId, orderId)
    return {
      result: {
        order_id: orderId,
        total_cents: total,
        refunded_cents: refunded,
        notes: notes.map(({ note }) => String(note)),
      },
    }
  }

  #refusal(workspaceId: string, orderId: string, cents: number): Answer | undefined {
    const order = this.#order(workspaceId, orderId)
    if ("error" in order) return order
    const left = Number(order.result.total_cents) - Number(order.result.refunded_cents)
    return cents > left ? failure("refund_too_large", `${left} cents are left.`) : undefined
  }

  #run(sql: string, ...values: readonly (string | number | null)[]): void {
    this.#database.prepare(sql).run(...values)
  }

  #transaction<T>(work: () => T): T {
    this.#database.exec("begin immediate")
    try {
      const done = work()
      this.#database.exec("commit")
      return done
    } catch (error) {
      this.#database.exec("rollback")
      throw error
    }
  }
}

function failure(reason: string, message: string): Answer {
  return { error: { reason, message } }
}
