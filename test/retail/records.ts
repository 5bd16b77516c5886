/** What the shop keeps, as its tools say it: schemas, and the types that follow from them. */
import { z } from "zod"

const text = z.string().max(200)

export const address = z.strictObject({
  address1: text.describe("Street and number."),
  address2: text.describe("Apartment or suite; empty where there is none."),
  city: text,
  state: text.describe("Two letters, such as CA."),
  country: text.describe("Such as USA."),
  zip: text.describe("Five digits."),
})

/** Colour, size and the like, by name. */
const options = z.record(z.string(), z.string())

export const product = z.strictObject({
  product_id: text,
  name: text,
  variants: z
    .record(
      z.string(),
      z.strictObject({ item_id: text, options, available: z.boolean(), price: z.number() }),
    )
    .describe("What can be ordered, by item id."),
})

const paymentMethod = z.strictObject({
  id: text,
  source: z.enum(["gift_card", "credit_card", "paypal"]),
  balance: z.number().optional().describe("What is left on a gift card."),
  brand: text.optional(),
  last_four: text.optional(),
})

export const user = z.strictObject({
  name: z.strictObject({ first_name: text, last_name: text }),
  address,
  email: text,
  payment_methods: z.record(z.string(), paymentMethod).describe("By payment method id."),
  orders: z.array(text).describe("Order ids."),
})

const orderItem = z.strictObject({
  name: text,
  product_id: text,
  item_id: text,
  price: z.number(),
  options,
})

const payment = z.strictObject({
  transaction_type: z.enum(["payment", "refund"]),
  amount: z.number(),
  payment_method_id: text,
})

export const order = z.strictObject({
  order_id: text,
  user_id: text,
  address,
  items: z.array(orderItem),
  fulfillments: z.array(z.strictObject({ tracking_id: z.array(text), item_ids: z.array(text) })),
  status: text.describe(
    "Begins with pending, or is processed, delivered, cancelled, return requested or exchange requested.",
  ),
  payment_history: z.array(payment),
  cancel_reason: text.optional(),
  return_items: z.array(text).optional(),
  return_payment_method_id: text.optional(),
  exchange_items: z.array(text).optional(),
  exchange_new_items: z.array(text).optional(),
  exchange_payment_method_id: text.optional(),
  exchange_price_difference: z.number().optional().describe("Negative where money goes back."),
})

export type Address = z.infer<typeof address>
export type Product = z.infer<typeof product>
export type User = z.infer<typeof user>
export type Order = z.infer<typeof order>
export type OrderItem = Order["items"][number]
export type Payment = Order["payment_history"][number]
