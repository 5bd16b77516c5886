import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { elsewhere, home, type SmallShop, smallShop, startSmallShop } from "./small-shop.ts"

const { "#W1": pendingOrder, "#W2": deliveredOrder, "#W3": giftOrder } = smallShop.orders
const user = smallShop.users.ada_king_1
let shop: SmallShop

beforeAll(async () => {
  shop = await startSmallShop()
}, 60_000)
afterAll(() => shop?.[Symbol.asyncDispose]())

test("what only looks is LOW; what can be changed back is MEDIUM, the rest HIGH, and KEYED", async () => {
  const { tools } = await shop.provider.listTools({}, actingAs(serviceSubject("tools", newId())))
  const classes = tools.map(({ name, riskClass, effect }) => [name, riskClass, effect])
  const { LOW, MEDIUM, HIGH } = RiskClass
  const { READ, KEYED } = Effect
  expect(classes.sort()).toEqual([
    ["calculate", LOW, READ],
    ["cancel_pending_order", HIGH, KEYED],
    ["exchange_delivered_order_items", HIGH, KEYED],
    ["find_user_id_by_email", LOW, READ],
    ["find_user_id_by_name_zip", LOW, READ],
    ["get_order_details", LOW, READ],
    ["get_product_details", LOW, READ],
    ["get_user_details", LOW, READ],
    ["list_all_product_types", LOW, READ],
    ["modify_pending_order_address", MEDIUM, KEYED],
    ["modify_pending_order_items", HIGH, KEYED],
    ["modify_pending_order_payment", HIGH, KEYED],
    ["modify_user_address", MEDIUM, KEYED],
    ["return_delivered_order_items", HIGH, KEYED],
    ["think", LOW, READ],
    ["transfer_to_human_agents", MEDIUM, KEYED],
  ])
})

describe("tools that look", () => {
  let workspaceId: string
  beforeAll(async () => {
    workspaceId = await shop.open()
  })

  test.each([
    ["find_user_id_by_email", { email: "ada@example.com" }, { user_id: "ada_king_1" }],
    ["find_user_id_by_email", { email: "ADA@example.com" }, { error: "user_not_found" }],
    [
      "find_user_id_by_name_zip",
      { first_name: "ADA", last_name: "king", zip: "62701" },
      { user_id: "ada_king_1" },
    ],
    [
      "find_user_id_by_name_zip",
      { first_name: "Ada", last_name: "King", zip: "62702" },
      { error: "user_not_found" },
    ],
    ["get_user_details", { user_id: "ada_king_1" }, user],
    ["get_user_details", { user_id: "ada" }, { error: "user_not_found" }],
    ["get_order_details", { order_id: "#W2" }, deliveredOrder],
    ["get_order_details", { order_id: "W2" }, { error: "order_not_found" }],
    ["get_product_details", { product_id: "p-shirt" }, smallShop.products["p-shirt"]],
    ["get_product_details", { product_id: "s-blue" }, { error: "product_not_found" }],
    ["list_all_product_types", {}, { product_ids: { Mug: "p-mug", Shirt: "p-shirt" } }],
    ["calculate", { expression: "(20.1 + 7.5) * 2 / 3" }, { value: 18.4 }],
    ["calculate", { expression: "process.exit(1)" }, { error: "invalid_expression" }],
    ["think", { thought: "Hm." }, {}],
  ])("%s %j", async (tool, args, answer) => {
    expect(await shop.call(workspaceId, tool, args)).toEqual(answer)
  })
})

describe("tools that change", () => {
  test("a cancelled order is paid back, to a gift card at once", async () => {
    const workspaceId = await shop.open()
    const args = { order_id: "#W3", reason: "no longer needed" }
    const refund = { ...giftOrder?.payment_history[0], transaction_type: "refund" }
    expect(await shop.call(workspaceId, "cancel_pending_order", args)).toEqual({
      ...giftOrder,
      status: "cancelled",
      cancel_reason: "no longer needed",
      payment_history: [giftOrder?.payment_history[0], refund],
    })
    expect(await balances(workspaceId)).toEqual({ gift: 17.5, rich: 500 })
    expect(await shop.call(workspaceId, "cancel_pending_order", args)).toEqual({
      error: "order_not_pending",
    })
  })

  test("an order's address and a customer's are two things", async () => {
    const workspaceId = await shop.open()
    const ship = { order_id: "#W1", ...elsewhere }
    expect(await shop.call(workspaceId, "modify_pending_order_address", ship)).toEqual({
      ...pendingOrder,
      address: elsewhere,
    })
    const read = () => shop.call(workspaceId, "get_user_details", { user_id: "ada_king_1" })
    expect(await read()).toMatchObject({ address: home })
    const move = { user_id: "ada_king_1", ...elsewhere }
    expect(await shop.call(workspaceId, "modify_user_address", move)).toEqual({
      ...user,
      address: elsewhere,
    })
    expect(await read()).toMatchObject({ address: elsewhere })
    const faults = [
      ["modify_user_address", { ...move, user_id: "eve" }, "user_not_found"],
      ["modify_pending_order_address", { ...ship, order_id: "#W2" }, "order_not_pending"],
      ["modify_pending_order_address", { ...ship, order_id: "#W9" }, "order_not_found"],
    ] as const
    for (const [tool, args, error] of faults) {
      expect(await shop.call(workspaceId, tool, args)).toEqual({ error })
    }
  })

  test("an order is paid another way, and the first one back", async () => {
    const workspaceId = await shop.open()
    const change = (order_id: string, payment_method_id: string) =>
      shop.call(workspaceId, "modify_pending_order_payment", { order_id, payment_method_id })
    expect(await change("#W1", "none")).toEqual({ error: "payment_method_not_found" })
    expect(await change("#W1", "card")).toEqual({ error: "payment_method_unchanged" })
    expect(await change("#W1", "gift")).toEqual({ error: "gift_card_insufficient" })
    expect(await change("#W1", "rich")).toEqual({
      ...pendingOrder,
      payment_history: [
        pendingOrder?.payment_history[0],
        { transaction_type: "payment", amount: 47.7, payment_method_id: "rich" },
        { transaction_type: "refund", amount: 47.7, payment_method_id: "card" },
      ],
    })
    expect(await change("#W3", "pal")).toMatchObject({ status: "pending" })
    expect(await balances(workspaceId)).toEqual({ gift: 17.5, rich: 452.3 })
    expect(await change("#W1", "pal")).toEqual({ error: "payment_not_single" })
    expect(await change("#W2", "pal")).toEqual({ error: "order_not_pending" })
  })

  test("items of a pending order are changed once, for the exact difference", async () => {
    const workspaceId = await shop.open()
    const change = (items: readonly string[], news: readonly string[], method = "rich") =>
      shop.call(workspaceId, "modify_pending_order_items", {
        ...{ order_id: "#W1", item_ids: [...items], new_item_ids: [...news] },
        payment_method_id: method,
      })
    expect(await change(["s-red"], ["s-blue"])).toEqual({ error: "item_not_found" })
    const thrice = ["s-blue", "s-blue", "s-blue"]
    expect(await change(thrice, thrice)).toEqual({ error: "item_not_found" })
    expect(await change(["s-blue"], ["s-red", "s-red"])).toEqual({ error: "item_count_mismatch" })
    expect(await change(["s-blue"], ["s-gold"])).toEqual({ error: "new_item_unavailable" })
    expect(await change(["s-blue"], ["m-big"])).toEqual({ error: "new_item_unavailable" })
    expect(await change(["s-blue"], ["s-red"], "none")).toEqual({
      error: "payment_method_not_found",
    })
    expect(await change(["s-blue"], ["s-red"], "gift")).toEqual({ error: "gift_card_insufficient" })
    const twice = await change(["s-blue", "s-blue"], ["s-red", "s-red"])
    expect(twice).toMatchObject({
      status: "pending (item modified)",
      items: [{ item_id: "s-red", price: 30.2 }, { item_id: "s-red" }, { item_id: "m-big" }],
      payment_history: [
        {},
        { transaction_type: "payment", amount: 2 * (30.2 - 20.1), payment_method_id: "rich" },
      ],
    })
    expect(await balances(workspaceId)).toEqual({ gift: 10, rich: 479.8 })
    expect(await change(["m-big"], ["m-big"])).toEqual({ error: "order_not_pending" })
  })

  test("delivered items are exchanged once, and nothing is paid yet", async () => {
    const workspaceId = await shop.open()
    const exchange = (change: object) =>
      shop.call(workspaceId, "exchange_delivered_order_items", {
        ...{ order_id: "#W2", item_ids: ["s-blue"], new_item_ids: ["s-red"] },
        payment_method_id: "card",
        ...change,
      })
    expect(await exchange({ order_id: "#W1" })).toEqual({ error: "order_not_delivered" })
    expect(await exchange({ new_item_ids: ["s-red", "s-red"] })).toEqual({
      error: "item_count_mismatch",
    })
    expect(await exchange({ payment_method_id: "gift" })).toEqual({
      error: "gift_card_insufficient",
    })
    expect(await exchange({})).toEqual({
      ...deliveredOrder,
      status: "exchange requested",
      exchange_items: ["s-blue"],
      exchange_new_items: ["s-red"],
      exchange_payment_method_id: "card",
      exchange_price_difference: 10.1,
    })
    expect(await exchange({})).toEqual({ error: "order_not_delivered" })
  })

  test("delivered items go back once, for money to where it came from or to a gift card", async () => {
    const workspaceId = await shop.open()
    const giveBack = (change: object) =>
      shop.call(workspaceId, "return_delivered_order_items", {
        ...{ order_id: "#W2", item_ids: ["m-big", "s-blue"], payment_method_id: "gift" },
        ...change,
      })
    expect(await giveBack({ order_id: "#W1" })).toEqual({ error: "order_not_delivered" })
    expect(await giveBack({ payment_method_id: "pal" })).toEqual({
      error: "payment_method_not_allowed",
    })
    expect(await giveBack({ item_ids: ["m-big", "m-big"] })).toEqual({ error: "item_not_found" })
    expect(await giveBack({})).toEqual({
      ...deliveredOrder,
      status: "return requested",
      return_items: ["m-big", "s-blue"],
      return_payment_method_id: "gift",
    })
  })

  test("a customer is handed over", async () => {
    const workspaceId = await shop.open()
    const args = { summary: "Wants to talk." }
    expect(await shop.call(workspaceId, "transfer_to_human_agents", args)).toEqual({
      status: "Transfer successful",
    })
    const rows = await shop.admin.query("select summary from handovers where workspace_id = $1", [
      workspaceId,
    ])
    expect(rows).toEqual([args])
  })
})

/** What is left on the gift cards. */
async function balances(workspaceId: string): Promise<unknown> {
  const rows = await shop.admin.query<{ readonly id: string; readonly balance: number }>(
    `select payment_method_id as id, balance from payment_methods
     where workspace_id = $1 and source = 'gift_card'`,
    [workspaceId],
  )
  return Object.fromEntries(rows.map(({ id, balance }) => [id, balance]))
}
