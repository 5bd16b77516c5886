// One answer per key and one shop per workspace, whatever is asked and however often.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { Outcome } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { as, elsewhere, type SmallShop, smallShop, startSmallShop } from "./small-shop.ts"

const { "#W1": pendingOrder, "#W3": giftOrder } = smallShop.orders
const cancel = { order_id: "#W3", reason: "ordered by mistake" }
let shop: SmallShop

beforeAll(async () => {
  shop = await startSmallShop()
}, 60_000)
afterAll(() => shop?.[Symbol.asyncDispose]())

describe("a key", () => {
  const address = { order_id: "#W1", ...elsewhere }

  test("that comes back changes nothing and is answered as before, errors too", async () => {
    const workspaceId = await shop.open()
    const key = newId()
    const first = await shop.call(workspaceId, "cancel_pending_order", cancel, key)
    expect(first).toMatchObject({ status: "cancelled" })
    expect(await shop.call(workspaceId, "cancel_pending_order", cancel, key)).toEqual(first)
    expect(await giftBalance(workspaceId)).toBe(17.5)
    const late = newId()
    const refused = () => shop.call(workspaceId, "modify_pending_order_address", address, late)
    const found = { ...address, order_id: "#W9" }
    expect(await shop.call(workspaceId, "modify_pending_order_address", found, late)).toEqual({
      error: "order_not_found",
    })
    await expect(refused()).rejects.toSatisfy((error) => reasonOf(error) === "IDEMPOTENCY_CONFLICT")
    expect(await shop.call(workspaceId, "get_order_details", { order_id: "#W1" })).toEqual(
      pendingOrder,
    )
  })

  test("that comes many times at once takes effect once", async () => {
    const workspaceId = await shop.open()
    const key = newId()
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => shop.call(workspaceId, "cancel_pending_order", cancel, key)),
    )
    for (const answer of answers) expect(answer).toEqual(answers[0])
    expect(answers[0]).toMatchObject({ status: "cancelled" })
    expect(await giftBalance(workspaceId)).toBe(17.5)
  })

  test("tells what became of its call", async () => {
    const workspaceId = await shop.open()
    const idempotencyKey = newId()
    const tool = "cancel_pending_order"
    const ask = (change: object = {}, where = workspaceId) =>
      shop.provider.getOutcome(
        { ...{ workspaceId: where, tool, idempotencyKey }, ...change },
        as(where),
      )
    expect((await ask()).outcome).toBe(Outcome.UNKNOWN)
    const result = await shop.call(workspaceId, tool, cancel, idempotencyKey)
    expect(await ask()).toMatchObject({
      outcome: Outcome.COMPLETED,
      response: { outcome: { case: "result", value: result } },
    })
    expect((await ask({ tool: "modify_user_address" })).outcome).toBe(Outcome.UNKNOWN)
    expect((await ask({ tool: "think" })).outcome).toBe(Outcome.NOT_EXECUTED)
    expect((await ask({}, newId())).outcome).toBe(Outcome.UNKNOWN)
  })

  test("is one of its workspace: another's is another call", async () => {
    const [ours, theirs] = [await shop.open(), await shop.open()]
    const key = newId()
    await shop.call(ours, "cancel_pending_order", cancel, key)
    expect(await shop.call(theirs, "get_order_details", { order_id: "#W3" })).toEqual(giftOrder)
    const again = await shop.call(theirs, "cancel_pending_order", cancel, key)
    expect(again).toMatchObject({ status: "cancelled" })
  })
})

describe("the shop of a workspace", () => {
  test("is nobody else's, also where a statement forgets to ask for the workspace", async () => {
    const [ours, empty] = [await shop.open(), newId()]
    expect(await shop.call(empty, "list_all_product_types", {})).toEqual({ product_ids: {} })
    expect(await shop.call(empty, "get_order_details", { order_id: "#W1" })).toEqual({
      error: "order_not_found",
    })
    const tables = await shop.admin.query<{ readonly name: string }>(
      `select table_name as name from information_schema.columns
       where table_schema = 'public' and column_name = 'workspace_id'`,
    )
    const seen = await shop.database.tenant(ours, async (tx) => {
      const owners = new Set<string>()
      for (const { name } of tables.filter(({ name }) => !/^outbox/.test(name))) {
        const rows = await tx.query<{ readonly id: string }>(
          `select distinct workspace_id as id from ${name}`,
        )
        for (const { id } of rows) owners.add(id)
      }
      return [...owners]
    })
    expect(seen).toEqual([ours])
  })

  test("is the token's, whatever the request says", async () => {
    const [ours, theirs] = [await shop.open(), await shop.open()]
    const request = {
      ...{ tool: "get_order_details", version: "1.0.0", idempotencyKey: newId() },
      ...{ arguments: { order_id: "#W1" }, runId: newId(), workspaceId: theirs },
    }
    const call = shop.provider.executeTool(request, as(ours))
    await expect(call).rejects.toSatisfy((error) => reasonOf(error) === "WORKSPACE_MISMATCH")
  })
})

test("a call that no member makes, or for what is not offered, has no effect", async () => {
  const workspaceId = await shop.open()
  const request = {
    ...{ workspaceId, tool: "cancel_pending_order", version: "1.0.0", idempotencyKey: newId() },
    ...{ arguments: { order_id: "#W3", reason: "no longer needed" }, runId: newId() },
  }
  const refused = [
    [request, actingAs(serviceSubject("tools", workspaceId)), "ROLE_TOO_LOW"],
    [request, as(workspaceId, Role.VIEWER), "ROLE_TOO_LOW"],
    [{ ...request, tool: "burn_order" }, as(workspaceId), "UNKNOWN_TOOL"],
    [{ ...request, version: "2.0.0" }, as(workspaceId), "UNKNOWN_TOOL"],
    [{ ...request, arguments: { order_id: "#W3" } }, as(workspaceId), "TOOL_ARGUMENTS_INVALID"],
  ] as const
  for (const [call, caller, reason] of refused) {
    const error: unknown = await shop.provider.executeTool(call, caller).catch((caught) => caught)
    expect(reasonOf(error)).toBe(reason)
  }
  expect(await shop.call(workspaceId, "get_order_details", { order_id: "#W3" })).toEqual(giftOrder)
})

async function giftBalance(workspaceId: string): Promise<unknown> {
  const user = await shop.call(workspaceId, "get_user_details", { user_id: "ada_king_1" })
  return user && "payment_methods" in user
    ? (user.payment_methods as { gift?: { balance?: number } }).gift?.balance
    : undefined
}
