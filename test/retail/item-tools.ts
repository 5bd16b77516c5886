/** Tools that change what an order holds, before or after it was delivered. */
import { z } from "zod"
import type { Tx } from "../../mesh/database.ts"
import { toCents } from "./arithmetic.ts"
import { orderId } from "./lookup-tools.ts"
import { changed, methodId, payIn } from "./order-tools.ts"
import { type Order, order, type Product } from "./records.ts"
import {
  known,
  requireCover,
  requireItems,
  requireMethod,
  requireStatus,
  swapItems,
} from "./rules.ts"
import * as store from "./shop-store.ts"
import { defineTool, type Tool, ToolFailure } from "./tool.ts"

const ids = z.array(z.string().max(64)).min(1).max(100)
const itemIds = ids.describe("Items of the order by id; one that was ordered twice may come twice.")
const swap = z.strictObject({
  order_id: orderId,
  item_ids: itemIds,
  new_item_ids: ids.describe(
    "For each of item_ids, in the same place, an available item of the same product.",
  ),
  payment_method_id: methodId,
})

export const itemTools: readonly Tool[] = [
  defineTool({
    name: "modify_pending_order_items",
    title: "Change items of a pending order",
    description:
      "Puts other items of the same products in the place of items of a pending order, and settles the difference by the way to pay that is named. Once per order, and nothing else of it can be changed afterwards: have all items together. Fails with order_not_found, order_not_pending, item_not_found, item_count_mismatch, new_item_unavailable, payment_method_not_found or gift_card_insufficient.",
    weight: "commit",
    input: swap,
    output: order,
    async run(tx, { order_id, payment_method_id, ...asked }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "pending", "modified")
      const { items, difference } = swapItems(found, await productsOf(tx, found), asked)
      const customer = known(await store.lockUser(tx, found.user_id), "user")
      const method = requireMethod(customer, payment_method_id)
      requireCover(method, difference, "the new item")
      await payIn(tx, found.user_id, method, -difference)
      for (const [position, item] of items.entries()) {
        if (item !== found.items[position]) await store.replaceItem(tx, order_id, position, item)
      }
      const transaction_type = difference > 0 ? "payment" : "refund"
      await store.addPayments(tx, order_id, [
        { transaction_type, amount: Math.abs(difference), payment_method_id },
      ])
      return changed(tx, { ...found, status: "pending (item modified)" })
    },
  }),
  defineTool({
    name: "exchange_delivered_order_items",
    title: "Exchange items of a delivered order",
    description:
      "Asks for other items of the same products in exchange for delivered ones, with the difference in price by the way to pay that is named. Once per order, and not after a return: have all items together. Fails with order_not_found, order_not_delivered, item_not_found, item_count_mismatch, new_item_unavailable, payment_method_not_found or gift_card_insufficient.",
    weight: "commit",
    input: swap,
    output: order,
    async run(tx, { order_id, payment_method_id, ...asked }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "delivered", "exchanged")
      const { difference } = swapItems(found, await productsOf(tx, found), asked)
      const customer = known(await store.findUser(tx, found.user_id), "user")
      const method = requireMethod(customer, payment_method_id)
      const price_difference = toCents(difference)
      requireCover(method, price_difference, "the price difference")
      return changed(tx, {
        ...found,
        status: "exchange requested",
        exchange_items: asked.item_ids.toSorted(),
        exchange_new_items: asked.new_item_ids.toSorted(),
        exchange_payment_method_id: payment_method_id,
        exchange_price_difference: price_difference,
      })
    },
  }),
  defineTool({
    name: "return_delivered_order_items",
    title: "Return items of a delivered order",
    description:
      "Asks for delivered items to be taken back, with the money to the way the order was paid or to a gift card. Once per order, and not after an exchange. Fails with order_not_found, order_not_delivered, item_not_found, payment_method_not_found or payment_method_not_allowed.",
    weight: "commit",
    input: z.strictObject({ order_id: orderId, item_ids: itemIds, payment_method_id: methodId }),
    output: order,
    async run(tx, { order_id, item_ids, payment_method_id }) {
      const found = requireStatus(await store.lockOrder(tx, order_id), "delivered", "returned")
      const customer = known(await store.findUser(tx, found.user_id), "user")
      const method = requireMethod(customer, payment_method_id)
      const original = found.payment_history[0]?.payment_method_id
      if (method.source !== "gift_card" && method.id !== original) {
        throw new ToolFailure(
          "payment_method_not_allowed",
          "payment method should be either the original payment method or a gift card",
        )
      }
      requireItems(found, item_ids)
      return changed(tx, {
        ...found,
        status: "return requested",
        return_items: item_ids.toSorted(),
        return_payment_method_id: payment_method_id,
      })
    },
  }),
]

/** The products of an order's items. */
async function productsOf(tx: Tx, { items }: Order): Promise<ReadonlyMap<string, Product>> {
  const products = new Map<string, Product>()
  for (const { product_id } of items) {
    const product = products.has(product_id) ? undefined : await store.findProduct(tx, product_id)
    if (product !== undefined) products.set(product_id, product)
  }
  return products
}
