/** Whole shops: filled from records, copied from workspace to workspace, read back and compared. */
import type { JsonValue } from "@bufbuild/protobuf"
import type { Connection, Tx } from "../../mesh/database.ts"
import type { Order, Product, User } from "./records.ts"

/** Records by their ids. */
export interface ShopData {
  readonly products: Readonly<Record<string, Product>>
  readonly users: Readonly<Record<string, User>>
  readonly orders: Readonly<Record<string, Order>>
}

type Kind = keyof ShopData

/** Records by `kind/id`; null for one that is gone. */
export type Records = Readonly<Record<string, JsonValue>>

/** Which record each table's rows are part of. */
const tables = {
  products: "products",
  variants: "products",
  users: "users",
  payment_methods: "users",
  orders: "orders",
  order_items: "orders",
  payments: "orders",
} as const satisfies Readonly<Record<string, Kind>>

const kinds = ["products", "users", "orders"] as const satisfies readonly Kind[]

/** Fills the empty shop of the transaction's workspace. */
export async function fillShop(tx: Tx, data: ShopData): Promise<void> {
  for (const kind of kinds) {
    const records = JSON.stringify(data[kind])
    for (const statement of fills[kind]) await tx.query(statement, [records])
  }
}

/** Gives each workspace a copy of one workspace's shop. Takes a superuser's connection. */
export async function copyShop(
  admin: Connection,
  from: string,
  to: readonly string[],
): Promise<void> {
  await admin.query("begin")
  // A copy of what fits together does: foreign keys need not look at each of a million rows.
  await admin.query("set local session_replication_role = replica")
  for (const table of Object.keys(tables)) {
    const columns = await columnsOf(admin, table)
    await admin.query(
      `insert into ${table} (workspace_id, ${columns})
       select copy.id, ${columns} from ${table} cross join unnest($2::uuid[]) as copy (id)
       where workspace_id = $1::uuid`,
      [from, to],
    )
  }
  await admin.query("commit")
}

/** Everything that a workspace's shop holds. Takes a superuser's connection. */
export async function readShop(admin: Connection, workspaceId: string): Promise<Records> {
  const found: [string, JsonValue][] = []
  for (const kind of kinds) {
    const rows = await admin.query<{ readonly id: string; readonly record: JsonValue }>(
      `select id, record from ${viewOf(kind)} where workspace_id = $1::uuid`,
      [workspaceId],
    )
    for (const { id, record } of rows) found.push([`${kind}/${id}`, record])
  }
  return Object.fromEntries(found)
}

/**
 * What differs in each copy from the shop that it was copied from, by workspace: every column of every
 * row is compared, rows that one of them lacks included. Takes a superuser's connection.
 */
export async function changedRecords(
  admin: Connection,
  from: string,
  copies: readonly string[],
): Promise<ReadonlyMap<string, Records>> {
  const changed = new Map<string, Record<string, JsonValue>>(copies.map((id) => [id, {}]))
  for (const [table, kind] of Object.entries(tables)) {
    for (const { workspaceId, id } of await differingRows(admin, table, kind, from, copies)) {
      const [row] = await admin.query<{ readonly record: JsonValue }>(
        `select record from ${viewOf(kind)} where workspace_id = $1::uuid and id = $2::text`,
        [workspaceId, id],
      )
      const records = changed.get(workspaceId)
      if (records !== undefined) records[`${kind}/${id}`] = row?.record ?? null
    }
  }
  return changed
}

/** How many rows each workspace has in a table. */
export async function countRows(
  admin: Connection,
  table: "keyed_calls" | "handovers",
  workspaceIds: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const rows = await admin.query<{ readonly workspaceId: string; readonly count: number }>(
    `select workspace_id as "workspaceId", count(*) from ${table}
     where workspace_id = any ($1::uuid[]) group by workspace_id`,
    [workspaceIds],
  )
  return new Map(rows.map(({ workspaceId, count }) => [workspaceId, count]))
}

function viewOf(kind: Kind): string {
  return `${kind.slice(0, -1)}_records`
}

/** The records that rows belong to which only the copy has, or only what it was copied from. */
async function differingRows(
  admin: Connection,
  table: string,
  kind: Kind,
  from: string,
  copies: readonly string[],
): Promise<readonly { readonly workspaceId: string; readonly id: string }[]> {
  const columns = await columnsOf(admin, table)
  const copied = `select workspace_id, ${columns} from ${table} where workspace_id = any ($2::uuid[])`
  const original = `select copy.id, ${columns} from ${table}
    cross join unnest($2::uuid[]) as copy (id) where workspace_id = $1::uuid`
  return admin.query(
    `select distinct workspace_id as "workspaceId", ${kind.slice(0, -1)}_id as id
     from ((${copied} except ${original}) union all (${original} except ${copied}))
       as differing (workspace_id, ${columns})`,
    [from, copies],
  )
}

async function columnsOf(admin: Connection, table: string): Promise<string> {
  const columns = await admin.query<{ readonly name: string }>(
    `select quote_ident(column_name) as name from information_schema.columns
     where table_schema = 'public' and table_name = $1::text and column_name <> 'workspace_id'`,
    [table],
  )
  return columns.map(({ name }) => name).join(", ")
}

const own = "runwarden.current_workspace()"

const fills = {
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
} as const satisfies Readonly<Record<Kind, readonly string[]>>
