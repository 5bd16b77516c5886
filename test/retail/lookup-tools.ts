/** Tools that only look: customers, orders, products, sums. */
import { z } from "zod"
import { evaluate, toCents } from "./arithmetic.ts"
import { order, product, user } from "./records.ts"
import { known } from "./rules.ts"
import * as store from "./shop-store.ts"
import { defineTool, type Tool, ToolFailure } from "./tool.ts"

export const orderId = z
  .string()
  .max(64)
  .describe("Id of the order with its number sign: #W0000000.")
export const userId = z.string().max(100).describe("Id of the customer, such as ada_king_1234.")

const foundUser = z.strictObject({ user_id: z.string() })

export const lookupTools: readonly Tool[] = [
  defineTool({
    name: "find_user_id_by_email",
    title: "Find a customer by e-mail address",
    description:
      "Gives the user_id of the customer with exactly this address. Fails with user_not_found; ask for name and zip code then, and use find_user_id_by_name_zip.",
    weight: "look",
    input: z.strictObject({ email: z.string().max(320) }),
    output: foundUser,
    async run(tx, { email }) {
      return { user_id: known(await store.findUserIdByEmail(tx, email), "user") }
    },
  }),
  defineTool({
    name: "find_user_id_by_name_zip",
    title: "Find a customer by name and zip code",
    description:
      "Gives the user_id of the customer of this name who lives there; capitals do not matter in names. Fails with user_not_found.",
    weight: "look",
    input: z.strictObject({
      first_name: z.string().max(100),
      last_name: z.string().max(100),
      zip: z.string().max(20).describe("Zip code of the customer's own address."),
    }),
    output: foundUser,
    async run(tx, { first_name: first, last_name: last, zip }) {
      return { user_id: known(await store.findUserIdByName(tx, { first, last, zip }), "user") }
    },
  }),
  defineTool({
    name: "get_user_details",
    title: "Get a customer",
    description:
      "Gives a customer's name, address, ways to pay with what is left on gift cards, and order ids. Fails with user_not_found.",
    weight: "look",
    input: z.strictObject({ user_id: userId }),
    output: user,
    async run(tx, args) {
      return known(await store.findUser(tx, args.user_id), "user")
    },
  }),
  defineTool({
    name: "get_order_details",
    title: "Get an order",
    description:
      "Gives an order with its status, items, parcels and payments. Look at the status first: what can be done with an order depends on it. Fails with order_not_found.",
    weight: "look",
    input: z.strictObject({ order_id: orderId }),
    output: order,
    async run(tx, args) {
      return known(await store.findOrder(tx, args.order_id), "order")
    },
  }),
  defineTool({
    name: "get_product_details",
    title: "Get a product with its items",
    description:
      "Gives the items of a product by item id: options, price, and whether there are any left. Takes a product_id, which is never an item_id. Fails with product_not_found.",
    weight: "look",
    input: z.strictObject({ product_id: z.string().max(64) }),
    output: product,
    async run(tx, args) {
      return known(await store.findProduct(tx, args.product_id), "product")
    },
  }),
  defineTool({
    name: "list_all_product_types",
    title: "List the products",
    description: "Gives the product_id of everything that the shop sells, by its name.",
    weight: "look",
    input: z.strictObject({}),
    output: z.strictObject({ product_ids: z.record(z.string(), z.string()) }),
    async run(tx) {
      const products = await store.listProducts(tx)
      return {
        product_ids: Object.fromEntries(products.map(({ name, productId }) => [name, productId])),
      }
    },
  }),
  defineTool({
    name: "calculate",
    title: "Work out a sum",
    description:
      "Gives the value of a sum of numbers with + - * / and parentheses, rounded to cents. Fails with invalid_expression.",
    weight: "look",
    input: z.strictObject({
      expression: z.string().max(1_000).describe("Such as (12.50 + 3) * 2."),
    }),
    output: z.strictObject({ value: z.number() }),
    async run(_, { expression }) {
      const value = evaluate(expression)
      if (value === undefined) throw new ToolFailure("invalid_expression", "this is no sum")
      return { value: toCents(value) }
    },
  }),
  defineTool({
    name: "think",
    title: "Write down a thought",
    description: "Takes a thought and does nothing with it: room to reason in before acting.",
    weight: "look",
    input: z.strictObject({ thought: z.string().max(10_000) }),
    output: z.strictObject({}),
    async run() {
      return {}
    },
  }),
]
