/**
 * Two orders in every workspace, and what became of every refund, in one SQLite file. A refund is
 * recorded before money moves and answered from its record ever after. One that is recorded without
 * an answer was interrupted: nobody knows whether it took effect, so nobody pays again.
 */
import { DatabaseSync } from "node:sqlite"
import type { JsonObject } from "@bufbuild/protobuf"

/** An `error` is the tool's own word ("there is no such order"), and final like a result. */
export type Answer =
  | { readonly result: JsonObject }
  | { readonly error: { readonly reason: string; readonly message: string } }

const totals: Readonly<Record<string, number>> = { "A-1001": 4_900, "A-1002": 12_000 }

export class Orders {
  readonly #database: DatabaseSync
  readonly #pay: (cents: number) => Promise<void>

  constructor(file: string, pay: (cents: number) => Promise<void>) {
    this.#pay = pay
    this.#database = new DatabaseSync(file)
    this.#database.exec(`create table if not exists refunds (workspace_id text, key text,
      order_id text, cents integer, answer text, primary key (workspace_id, key)) strict`)
  }

  get(workspaceId: string, orderId: string): Answer {
    const total = totals[orderId]
    if (total === undefined) return failure("order_not_found", `There is no order ${orderId}.`)
    const sum = "select sum(cents) as sum from refunds where workspace_id = ? and order_id = ?"
    const refunded = Number(this.#database.prepare(sum).get(workspaceId, orderId)?.sum ?? 0)
    return { result: { order_id: orderId, total_cents: total, refunded_cents: refunded } }
  }

  async refund(workspaceId: string, key: string, orderId: string, cents: number): Promise<Answer> {
    const known = this.outcome(workspaceId, key)
    if (known === "unknown") throw new Error(`a refund of ${orderId} was begun before`)
    if (known !== undefined) return known
    const refused = this.#refusal(workspaceId, orderId, cents)
    this.#database
      .prepare("insert into refunds values (?, ?, ?, ?, ?)")
      .run(workspaceId, key, orderId, refused ? 0 : cents, refused ? JSON.stringify(refused) : null)
    if (refused !== undefined) return refused
    await this.#pay(cents)
    const answer = this.get(workspaceId, orderId)
    this.#database
      .prepare("update refunds set answer = ? where workspace_id = ? and key = ?")
      .run(JSON.stringify(answer), workspaceId, key)
    return answer
  }

  /** The recorded answer; "unknown" for a refund without one, undefined for one never heard of. */
  outcome(workspaceId: string, key: string): Answer | "unknown" | undefined {
    const find = "select answer from refunds where workspace_id = ? and key = ?"
    const row = this.#database.prepare(find).get(workspaceId, key)
    if (row === undefined) return undefined
    return row.answer === null ? "unknown" : JSON.parse(String(row.answer))
  }

  #refusal(workspaceId: string, orderId: string, cents: number): Answer | undefined {
    const order = this.get(workspaceId, orderId)
    if ("error" in order) return order
    const left = Number(order.result.total_cents) - Number(order.result.refunded_cents)
    return cents > left ? failure("refund_too_large", `${left} cents are left.`) : undefined
  }
}

function failure(reason: string, message: string): Answer {
  return { error: { reason, message } }
}
