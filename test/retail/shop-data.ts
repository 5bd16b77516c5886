/** Whole shops: filled from records, copied from workspace to workspace, and read back. */
import type { Connection, Tx } from "../../mesh/database.ts"
import type { Order, Product, User } from "./records.ts"

/** Records by their ids. */
export interface ShopData {
  readonly products: Readonly<Record<string, Product>>
  readonly users: Readonly<Record<string, User>>
  readonly orders: Readonly<Record<string, Order>>
}

type Kind = keyof ShopData

/** Every record's JSON with its members in a fixed order, by kind and id. */
export type ShopRecords = ReadonlyMap<string, string>

const kinds: readonly Kind[] = ["products", "users", "orders"]

/** Fills the empty shop of the transaction's workspace. */
export async function fillShop(tx: Tx, data: ShopData): Promise<void> {
  for (const [kind, statements] of Object.entries(fills)) {
    const records = JSON.stringify(data[kind as Kind])
    for (const statement of statements) await tx.query(statement, [records])
  }
}

/** Gives each workspace a copy of one workspace's shop. Takes a connection that no policy holds. */
export async function copyShop(
  admin: Connection,
  from: string,
  to: readonly string[],
): Promise<void> {
  for (const table of tables) {
    const columns = await admin.query<{ readonly name: string }>(
      `select quote_ident(column_name) as name from information_schema.columns
       where table_schema = 'public' and table_name = $1::text and column_name <> 'workspace_id'`,
      [table],
    )
    const names = columns.map(({ name }) => name).join(", ")
    await admin.query(
      `insert into ${table} (workspace_id, ${names})
       select copy.id, ${names} from ${table} cross join unnest($2::uuid[]) as copy (id)
       where workspace_id = $1::uuid`,
      [from, to],
    )
  }
}

/** Everything that a workspace's shop holds. Takes a connection that no policy holds. */
export async function readShop(admin: Connection, workspaceId: string): Promise<ShopRecords> {
  const rows = await admin.query<{ readonly key: string; readonly record: string }>(
    kinds
      .map((kind) => {
        const view = `${kind.slice(0, -1)}_records`
        return `select '${kind}/' || id as key, record::text as record from ${view}
          where workspace_id = $1::uuid`
      })
      .join(" union all "),
    [workspaceId],
  )
  return new Map(rows.map(({ key, record }) => [key, record]))
}

/** The records of `after` that are not as they were, by kind and id; undefined where one is gone. */
export function changedRecords(
  before: ShopRecords,
  after: ShopRecords,
): Readonly<Record<string, unknown>> {
  const keys = new Set([...before.keys(), ...after.keys()])
  return Object.fromEntries(
    [...keys]
      .filter((key) => before.get(key) !== after.get(key))
      .map((key) => [key, JSON.parse(after.get(key) ?? "null")]),
  )
}

const tables = [
  "products",
  "variants",
  "users",
  "payment_methods",
  "orders",
  "order_items",
  "payments",
]

const own = "runwarden.current_workspace()"

const fills: Readonly<Record<Kind, readonly string[]>> = {
  products: [
    `insert into products (workspace_id, product_id, name)
     select ${own}, id, value ->> 'name' from jsonb_each($1::jsonb) as record (id, value)`,
    `insert into variants (workspace_id, product_id, item_id, options, is_available, price)
     select ${own}, id, item_id, variant -> 'options', (variant ->> 'available')::boolean,
       (variant ->> 'price')::double precision
     from jsonb_each($1::jsonb) as record (id, value),
       jsonb_each(value -> 'variants') as variants (item_id, variant)`,
  ],
  users: [
    `insert into users (workspace_id, user_id, first_name, last_name, email, address)
     select ${own}, id, value -> 'name' ->> 'first_name', value -> 'name' ->> 'last_name',
       value ->> 'email', value -> 'address'
     from jsonb_each($1::jsonb) as record (id, value)`,
    `insert into payment_methods (workspace_id, user_id, payment_method_id, source, balance, brand,
       last_four)
     select ${own}, id, method_id, method ->> 'source', (method ->> 'balance')::double precision,
       method ->> 'brand', method ->> 'last_four'
     from jsonb_each($1::jsonb) as record (id, value),
       jsonb_each(value -> 'payment_methods') as methods (method_id, method)`,
    // The customer says in which order his orders come; the rest of each follows.
    `insert into orders (workspace_id, order_id, user_id, position, address, fulfillments, status)
     select ${own}, order_id, id, position, '{}', '[]', ''
     from jsonb_each($1::jsonb) as record (id, value),
       jsonb_array_elements_text(value -> 'orders') with ordinality as owned (order_id, position)`,
  ],
  orders: [
    `update orders set address = value -> 'address', fulfillments = value -> 'fulfillments',
       status = value ->> 'status'
     from jsonb_each($1::jsonb) as record (id, value)
     where workspace_id = ${own} and order_id = id`,
    `insert into order_items (workspace_id, order_id, position, name, product_id, item_id, price,
       options)
     select ${own}, id, n - 1, item ->> 'name', item ->> 'product_id', item ->> 'item_id',
       (item ->> 'price')::double precision, item -> 'options'
     from jsonb_each($1::jsonb) as record (id, value),
       jsonb_array_elements(value -> 'items') with ordinality as items (item, n)`,
    `insert into payments (workspace_id, order_id, position, transaction_type, amount,
       payment_method_id)
     select ${own}, id, n, paid ->> 'transaction_type', (paid ->> 'amount')::double precision,
       paid ->> 'payment_method_id'
     from jsonb_each($1::jsonb) as record (id, value),
       jsonb_array_elements(value -> 'payment_history') with ordinality as payments (paid, n)`,
  ],
}
