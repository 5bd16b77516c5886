/** What the shop allows: pure, and asked before anything is written. */
import type { Order, OrderItem, Product, User } from "./records.ts"
import { ToolFailure } from "./tool.ts"

export type PaymentMethod = User["payment_methods"][string]

/** Items of an order, others for them, and who pays or gets the difference. */
export interface Swap {
  readonly item_ids: readonly string[]
  readonly new_item_ids: readonly string[]
}

/** The record, or the tool's own word that there is none. */
export function known<T>(record: T | undefined, noun: "order" | "product" | "user"): T {
  if (record === undefined) throw new ToolFailure(`${noun}_not_found`, `${noun} not found`)
  return record
}

/** The order, while it may still be `done` with what is asked. */
export function requireStatus(
  order: Order | undefined,
  status: "pending" | "delivered",
  done: string,
): Order {
  const found = known(order, "order")
  if (found.status === status) return found
  throw new ToolFailure(`order_not_${status}`, `non-${status} order cannot be ${done}`)
}

export function requireMethod(user: User, paymentMethodId: string): PaymentMethod {
  const method = user.payment_methods[paymentMethodId]
  if (method === undefined) {
    throw new ToolFailure("payment_method_not_found", "payment method not found")
  }
  return method
}

/** A gift card must cover all of it; the others are asked for the money by somebody else. */
export function requireCover(method: PaymentMethod, amount: number, what: string): void {
  if (method.source !== "gift_card" || (method.balance ?? 0) >= amount) return
  const message = `insufficient gift card balance to pay for ${what}`
  throw new ToolFailure("gift_card_insufficient", message)
}

/** Each as often as it was ordered, at most. */
export function requireItems(order: Order, itemIds: readonly string[]): void {
  const left = order.items.map(({ item_id }) => item_id)
  for (const id of itemIds) {
    const at = left.indexOf(id)
    if (at < 0) throw new ToolFailure("item_not_found", `item ${id} not found in the order`)
    left.splice(at, 1)
  }
}

/**
 * The items as they would be, and what they cost more. The difference is summed up as the shop's
 * books do it, in binary floating point and in this order, and is not rounded.
 */
export function swapItems(
  order: Order,
  products: ReadonlyMap<string, Product>,
  swap: Swap,
): { readonly items: readonly OrderItem[]; readonly difference: number } {
  requireItems(order, swap.item_ids)
  if (swap.item_ids.length !== swap.new_item_ids.length) {
    throw new ToolFailure("item_count_mismatch", "there must be one new item for each item")
  }
  const items = [...order.items]
  const isSwapped = new Set<number>()
  let difference = 0
  for (const [n, id] of swap.item_ids.entries()) {
    const at = items.findIndex(({ item_id }, index) => item_id === id && !isSwapped.has(index))
    const old = items[at]
    const newId = swap.new_item_ids[n] ?? ""
    const chosen = products.get(old?.product_id ?? "")?.variants[newId]
    if (old === undefined || chosen?.available !== true) {
      throw new ToolFailure("new_item_unavailable", `new item ${newId} not found or not available`)
    }
    difference += chosen.price - old.price
    items[at] = { ...old, item_id: newId, price: chosen.price, options: chosen.options }
    isSwapped.add(at)
  }
  return { items, difference }
}
