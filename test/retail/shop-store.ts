/** Every statement of the shop's tools. A change locks the order's or the customer's row first. */
import type { Tx } from "../../mesh/database.ts"
import type { Address, Order, OrderItem, Payment, Product, User } from "./records.ts"

type Kind = "order" | "product" | "user"

async function findRecord<T>(tx: Tx, kind: Kind, id: string): Promise<T | undefined> {
  const row = await tx.maybe<{ readonly record: T }>(
    `select record from ${kind}_records
     where workspace_id = runwarden.current_workspace() and id = $1::text`,
    [id],
  )
  return row?.record
}

export function findOrder(tx: Tx, orderId: string): Promise<Order | undefined> {
  return findRecord(tx, "order", orderId)
}

export function findProduct(tx: Tx, productId: string): Promise<Product | undefined> {
  return findRecord(tx, "product", productId)
}

export function findUser(tx: Tx, userId: string): Promise<User | undefined> {
  return findRecord(tx, "user", userId)
}

/** The order as it is once nobody else is changing it. */
export async function lockOrder(tx: Tx, orderId: string): Promise<Order | undefined> {
  await tx.query(
    `select from orders
     where workspace_id = runwarden.current_workspace() and order_id = $1::text for update`,
    [orderId],
  )
  return findOrder(tx, orderId)
}

/** The customer, once nobody else is changing what he has. */
export async function lockUser(tx: Tx, userId: string): Promise<User | undefined> {
  await tx.query(
    `select from users
     where workspace_id = runwarden.current_workspace() and user_id = $1::text for update`,
    [userId],
  )
  return findUser(tx, userId)
}

export async function findUserIdByEmail(tx: Tx, email: string): Promise<string | undefined> {
  const row = await tx.maybe<{ readonly userId: string }>(
    `select user_id as "userId" from users
     where workspace_id = runwarden.current_workspace() and email = $1::text`,
    [email],
  )
  return row?.userId
}

export async function findUserIdByName(
  tx: Tx,
  name: { readonly first: string; readonly last: string; readonly zip: string },
): Promise<string | undefined> {
  const row = await tx.maybe<{ readonly userId: string }>(
    `select user_id as "userId" from users
     where workspace_id = runwarden.current_workspace()
       and lower(last_name) = lower($1::text) and lower(first_name) = lower($2::text)
       and address ->> 'zip' = $3::text
     order by user_id limit 1`,
    [name.last, name.first, name.zip],
  )
  return row?.userId
}

export function listProducts(
  tx: Tx,
): Promise<readonly { readonly name: string; readonly productId: string }[]> {
  return tx.query(
    `select name, product_id as "productId" from products
     where workspace_id = runwarden.current_workspace() order by name, product_id`,
  )
}

export async function setUserAddress(tx: Tx, userId: string, address: Address): Promise<void> {
  await tx.query(
    `update users set address = $2::jsonb
     where workspace_id = runwarden.current_workspace() and user_id = $1::text`,
    [userId, JSON.stringify(address)],
  )
}

export async function setBalance(
  tx: Tx,
  userId: string,
  paymentMethodId: string,
  balance: number,
): Promise<void> {
  await tx.query(
    `update payment_methods set balance = $3::double precision
     where workspace_id = runwarden.current_workspace()
       and user_id = $1::text and payment_method_id = $2::text`,
    [userId, paymentMethodId, balance],
  )
}

/** Stores the order's own fields; its items and payments have statements of their own. */
export async function updateOrder(tx: Tx, order: Order): Promise<void> {
  await tx.query(
    `update orders set address = $2::jsonb, status = $3::text, cancel_reason = $4::text,
       return_items = $5::text[], return_payment_method_id = $6::text,
       exchange_items = $7::text[], exchange_new_items = $8::text[],
       exchange_payment_method_id = $9::text, exchange_price_difference = $10::double precision
     where workspace_id = runwarden.current_workspace() and order_id = $1::text`,
    [
      order.order_id,
      JSON.stringify(order.address),
      order.status,
      order.cancel_reason ?? null,
      order.return_items ?? null,
      order.return_payment_method_id ?? null,
      order.exchange_items ?? null,
      order.exchange_new_items ?? null,
      order.exchange_payment_method_id ?? null,
      order.exchange_price_difference ?? null,
    ],
  )
}

/** Puts another item in the place of one. */
export async function replaceItem(
  tx: Tx,
  orderId: string,
  position: number,
  { item_id, price, options }: OrderItem,
): Promise<void> {
  await tx.query(
    `update order_items set item_id = $3::text, price = $4::double precision, options = $5::jsonb
     where workspace_id = runwarden.current_workspace()
       and order_id = $1::text and position = $2::integer`,
    [orderId, position, item_id, price, JSON.stringify(options)],
  )
}

/** Adds payments behind those that an order has. */
export async function addPayments(
  tx: Tx,
  orderId: string,
  payments: readonly Payment[],
): Promise<void> {
  await tx.query(
    `insert into payments (workspace_id, order_id, position, transaction_type, amount,
       payment_method_id)
     select runwarden.current_workspace(), $1::text,
       (select count(*) from payments
        where workspace_id = runwarden.current_workspace() and order_id = $1::text) + n,
       transaction_type, amount, payment_method_id
     from unnest($2::text[], $3::double precision[], $4::text[])
       with ordinality as added (transaction_type, amount, payment_method_id, n)`,
    [
      orderId,
      payments.map(({ transaction_type }) => transaction_type),
      payments.map(({ amount }) => amount),
      payments.map(({ payment_method_id }) => payment_method_id),
    ],
  )
}

export async function addHandover(tx: Tx, summary: string): Promise<void> {
  await tx.query(
    `insert into handovers (workspace_id, summary)
     values (runwarden.current_workspace(), $1::text)`,
    [summary],
  )
}
