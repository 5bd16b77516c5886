/**
 * Tools that change an order or a customer. Each locks what it is about to change, asks the rules,
 * and only then writes.
 */
import { z } from "zod"
import type { Tx } from "../../mesh/database.ts"
import { toCents } from "./arithmetic.ts"
import { orderId, userId } from "./lookup-tools.ts"
import { address, type Order, order, type Payment, user } from "./records.ts"
import { known, type PaymentMethod, requireCover, requireMethod, requireStatus } from "./rules.ts"
import * as store from "./shop-store.ts"
import { defineTool, type Tool, ToolFailure } from "./tool.ts"

export const methodId = z
  .string()
  .max(100)
  .describe("One of the customer's own ways to pay, by its id in get_user_details.")

export const orderTools: readonly Tool[] = [
  defineTool({
    name: "cancel_pending_order",
    title: "Cancel a pending order",
    description:
      "Cancels an order that is still pending and pays everything back the way it was paid: at once to a gift card, within days otherwise. Cannot be undone. Fails with order_not_found or order_not_pending.",
    weight: "commit",
    input: z.strictObject({
      order_id: orderId,
      reason: z.enum(["no longer needed", "ordered by mistake"]),
    }),
    output: order,
    async run(tx, { order_id, reason }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "pending", "cancelled")
      const refunds = found.payment_history.map((paid) => refundOf(paid))
      for (const { payment_method_id, amount } of refunds) {
        const customer = known(await store.lockUser(tx, found.user_id), "user")
        const method = customer.payment_methods[payment_method_id]
        if (method !== undefined) await payIn(tx, found.user_id, method, amount)
      }
      await store.addPayments(tx, order_id, refunds)
      return changed(tx, { ...found, status: "cancelled", cancel_reason: reason })
    },
  }),
  defineTool({
    name: "modify_pending_order_address",
    title: "Change where a pending order goes",
    description:
      "Sets the shipping address of an order that is still pending. Fails with order_not_found or order_not_pending.",
    weight: "change",
    input: address.extend({ order_id: orderId }),
    output: order,
    async run(tx, { order_id, ...to }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "pending", "modified")
      return changed(tx, { ...found, address: to })
    },
  }),
  defineTool({
    name: "modify_pending_order_payment",
    title: "Change how a pending order is paid",
    description:
      "Has a pending order paid by another of the customer's ways to pay, and pays the first one back. A gift card must cover all of it. Fails with order_not_found, order_not_pending, payment_method_not_found, payment_not_single, payment_method_unchanged or gift_card_insufficient.",
    weight: "commit",
    input: z.strictObject({ order_id: orderId, payment_method_id: methodId }),
    output: order,
    async run(tx, { order_id, payment_method_id }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "pending", "modified")
      const customer = known(await store.lockUser(tx, found.user_id), "user")
      const method = requireMethod(customer, payment_method_id)
      const paid = singlePayment(found)
      if (paid.payment_method_id === payment_method_id) {
        throw new ToolFailure("payment_method_unchanged", "the order is paid like that already")
      }
      requireCover(method, paid.amount, "the order")
      await payIn(tx, found.user_id, method, -paid.amount)
      const before = requireMethod(customer, paid.payment_method_id)
      await payIn(tx, found.user_id, before, paid.amount)
      await store.addPayments(tx, order_id, [{ ...paid, payment_method_id }, refundOf(paid)])
      return changed(tx, found)
    },
  }),
  defineTool({
    name: "modify_user_address",
    title: "Change where a customer lives",
    description:
      "Sets the customer's own address. Orders that are under way keep theirs: change those with modify_pending_order_address. Fails with user_not_found.",
    weight: "change",
    input: address.extend({ user_id: userId }),
    output: user,
    async run(tx, { user_id, ...to }) {
      const found = known(await store.lockUser(tx, user_id), "user")
      await store.setUserAddress(tx, user_id, to)
      return { ...found, address: to }
    },
  }),
  defineTool({
    name: "transfer_to_human_agents",
    title: "Hand the customer over to a person",
    description:
      "Puts the customer into the queue of the people of the shop, with a summary for them. For what no other tool can do.",
    weight: "change",
    input: z.strictObject({ summary: z.string().max(4_000).describe("What is asked, and why.") }),
    output: z.strictObject({ status: z.string() }),
    async run(tx, { summary }) {
      await store.addHandover(tx, summary)
      return { status: "Transfer successful" }
    },
  }),
]

/** Stores the order's own fields and gives all of it as it is now. */
export async function changed(tx: Tx, order: Order): Promise<Order> {
  await store.updateOrder(tx, order)
  return known(await store.findOrder(tx, order.order_id), "order")
}

/** Adds to what is on a gift card; other ways to pay have their books elsewhere. */
export async function payIn(
  tx: Tx,
  userId: string,
  { id, source, balance = 0 }: PaymentMethod,
  amount: number,
): Promise<void> {
  if (source === "gift_card") await store.setBalance(tx, userId, id, toCents(balance + amount))
}

function refundOf(paid: Payment): Payment {
  return { ...paid, transaction_type: "refund" }
}

function singlePayment({ payment_history }: Order): Payment {
  const [paid, ...others] = payment_history
  if (paid?.transaction_type === "payment" && others.length === 0) return paid
  throw new ToolFailure("payment_not_single", "the order has not been paid exactly once")
}
