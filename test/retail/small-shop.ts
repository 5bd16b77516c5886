/** A shop of a handful of records, and a client in the tools service's place. */
import type { JsonObject } from "@bufbuild/protobuf"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { connect, openDatabase } from "../../mesh/database.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { goOn } from "../../mesh/kill-points.ts"
import { testServerVariable } from "../../mesh/test-database.ts"
import { testClient, testDatabase, testKeys } from "../../mesh/testing.ts"
import { createRetail, retailMigrations, retailName, retailRuntime } from "./provider.ts"
import type { Address, Order, Product, User } from "./records.ts"
import { fillShop, type ShopData } from "./shop-data.ts"

export type SmallShop = Awaited<ReturnType<typeof startSmallShop>>

export const home: Address = {
  ...{ address1: "1 Main Street", address2: "", city: "Springfield" },
  ...{ state: "IL", country: "USA", zip: "62701" },
}
export const elsewhere: Address = { ...home, address1: "2 Side Street", zip: "62702" }

/** The service on a database of its own, and a workspace whose shop is `smallShop`. */
export async function startSmallShop() {
  await using stack = new AsyncDisposableStack()
  const config = stack.use(await testDatabase(retailName, { migrations: retailMigrations }))
  const runtime = retailRuntime(testKeys.trusted, goOn)
  const service = stack.use(createRetail(config, runtime))
  await service.start(AbortSignal.timeout(60_000))
  const database = stack.use(openDatabase(config, { runtime, migrations: retailMigrations }))
  const admin = stack.use(
    await connect(String(process.env[testServerVariable]), {
      database: new URL(config.appUrl).pathname.slice(1),
    }),
  )
  const provider = testClient(ToolProviderService, { routes: service.routes, runtime }, "tools")
  const owned = stack.move()
  return {
    ...{ provider, database, admin },
    async open(): Promise<string> {
      const workspaceId = newId()
      await database.tenant(workspaceId, (tx) => fillShop(tx, smallShop))
      return workspaceId
    },
    /** What a tool answers: its result, or `{ error: reason }`. */
    async call(workspaceId: string, tool: string, args: JsonObject, key: string = newId()) {
      const { outcome } = await provider.executeTool(
        {
          ...{ workspaceId, tool, version: "1.0.0", idempotencyKey: key, arguments: args },
          runId: newId(),
        },
        as(workspaceId),
      )
      return outcome.case === "error" ? { error: outcome.value.reason } : outcome.value
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

export function as(workspaceId: string, role: Role = Role.MEMBER) {
  return actingAs(memberSubject(workspaceId, newId(), role))
}

const shirt: Product = {
  product_id: "p-shirt",
  name: "Shirt",
  variants: {
    "s-blue": item("s-blue", { color: "blue" }, 20.1),
    "s-red": item("s-red", { color: "red" }, 30.2),
    "s-gold": { ...item("s-gold", { color: "gold" }, 99), available: false },
  },
}
const mug: Product = {
  product_id: "p-mug",
  name: "Mug",
  variants: { "m-big": item("m-big", { size: "big" }, 7.5) },
}

const ada: User = {
  name: { first_name: "Ada", last_name: "King" },
  address: home,
  email: "ada@example.com",
  payment_methods: {
    card: { id: "card", source: "credit_card", brand: "visa", last_four: "4242" },
    gift: { id: "gift", source: "gift_card", balance: 10 },
    rich: { id: "rich", source: "gift_card", balance: 500 },
    pal: { id: "pal", source: "paypal" },
  },
  orders: ["#W2", "#W1", "#W3"],
}

export const smallShop: ShopData = {
  products: { "p-shirt": shirt, "p-mug": mug },
  users: { ada_king_1: ada },
  orders: {
    "#W1": orderOf("#W1", "pending", "card", ["s-blue", "s-blue", "m-big"]),
    "#W2": orderOf("#W2", "delivered", "card", ["s-blue", "m-big"]),
    "#W3": orderOf("#W3", "pending", "gift", ["m-big"]),
  },
}

function item(item_id: string, options: Record<string, string>, price: number) {
  return { item_id, options, available: true, price }
}

function orderOf(id: string, status: string, method: string, itemIds: readonly string[]): Order {
  const items = itemIds.map((item_id) => {
    const { product_id, name, variants } = item_id.startsWith("s") ? shirt : mug
    const { price = 0, options = {} } = variants[item_id] ?? {}
    return { name, product_id, item_id, price, options }
  })
  const amount = Number(items.reduce((sum, { price }) => sum + price, 0).toFixed(2))
  return {
    ...{ order_id: id, user_id: "ada_king_1", address: home, items, status },
    fulfillments: status === "delivered" ? [{ tracking_id: ["t-1"], item_ids: [...itemIds] }] : [],
    payment_history: [{ transaction_type: "payment", amount, payment_method_id: method }],
  }
}
