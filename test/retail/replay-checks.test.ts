// What is held against the set, on made-up records: a checker that cannot fail proves nothing.
import { create, type JsonObject } from "@bufbuild/protobuf"
import { afterAll, beforeAll, expect, test } from "vitest"
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallSchema } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { newId } from "../../mesh/ids.ts"
import { callFindings, traceFindings } from "./replay.ts"
import { changedRecords, copyShop, countRows, type Records, readShop } from "./shop-data.ts"
import { type SmallShop, smallShop, startSmallShop } from "./small-shop.ts"
import type { Task } from "./tasks.ts"

let shop: SmallShop

beforeAll(async () => {
  shop = await startSmallShop()
}, 60_000)
afterAll(() => shop?.[Symbol.asyncDispose]())

const cancel = { order_id: "#W3", reason: "no longer needed" }

test("a shop is read as it was filled, and so is its copy", async () => {
  const from = await shop.open()
  const copy = newId()
  await copyShop(shop.admin, from, [copy])
  const expected = Object.entries(smallShop).flatMap(([kind, records]) =>
    Object.entries(records).map(([id, record]) => [`${kind}/${id}`, record]),
  )
  for (const id of [from, copy]) {
    expect(await readShop(shop.admin, id)).toEqual(Object.fromEntries(expected))
  }
  expect(await changedRecords(shop.admin, from, [copy])).toEqual(new Map([[copy, {}]]))
})

test("every changed, added or lost row is a changed record of its workspace", async () => {
  const from = await shop.open()
  const changes = [
    ["products/p-mug", "update products set name = 'Cup' where product_id = 'p-mug'"],
    ["products/p-shirt", "update variants set is_available = true where item_id = 's-gold'"],
    ["users/ada_king_1", "update users set email = 'eve@example.com' where true"],
    [
      "users/ada_king_1",
      "update payment_methods set balance = 10.000000000000002 where balance = 10",
    ],
    ["orders/#W2", "update orders set status = 'lost' where order_id = '#W2'"],
    ["orders/#W1", "update order_items set price = 7.51 where order_id = '#W1' and position = 2"],
    ["orders/#W3", "delete from payments where order_id = '#W3'"],
  ] as const
  const copies = changes.map(() => newId())
  await copyShop(shop.admin, from, copies)
  for (const [n, [, change]] of changes.entries()) {
    await shop.admin.query(change.replace(" where ", " where workspace_id = $1::uuid and "), [
      copies[n],
    ])
  }
  const found = await changedRecords(shop.admin, from, copies)
  const keys = copies.map((id) => Object.keys(found.get(id) ?? {}))
  expect(keys).toEqual(changes.map(([key]) => [key]))
})

test("a task's traces are those that it should leave, no more and no fewer", async () => {
  const from = await shop.open()
  const copy = newId()
  await copyShop(shop.admin, from, [copy])
  await shop.call(copy, "cancel_pending_order", cancel)
  const changed = (await changedRecords(shop.admin, from, [copy])).get(copy) ?? {}
  expect(Object.keys(changed)).toEqual(["users/ada_king_1", "orders/#W3"])
  const keys = (await countRows(shop.admin, "keyed_calls", [copy])).get(copy) ?? 0
  const traces = { changed, keys, handovers: 0 }
  const task = taskOf(changed)
  expect(traceFindings(task, traces)).toEqual([])
  const { "orders/#W3": order, ...others } = changed
  const altered = { ...others, "orders/#W3": { ...(order as JsonObject), status: "pending" } }
  const wrong = [
    [taskOf(altered), traces],
    [taskOf(others), traces],
    [taskOf({ ...changed, "orders/#W9": order ?? null }), traces],
    [task, { ...traces, keys: 0 }],
    [task, { ...traces, keys: 2 }],
    [task, { ...traces, handovers: 1 }],
  ] as const
  for (const [expected, left] of wrong) expect(traceFindings(expected, left)).toHaveLength(1)
})

test("a task's run succeeds, its calls give what they should, and HIGH ones are confirmed", () => {
  const task = taskOf({})
  const outcome = { case: "result", value: { status: "cancelled" } } as const
  const high = { riskClass: RiskClass.HIGH, approvalId: newId(), outcome }
  const performed = {
    run: { state: RunState.SUCCEEDED, reason: "" },
    calls: [create(ToolCallSchema, high)],
    confirmed: 1,
  }
  expect(callFindings(task, performed)).toEqual([])
  const wrong = [
    undefined,
    { ...performed, run: { state: RunState.FAILED, reason: "tool_failed" } },
    { ...performed, confirmed: 0 },
    { ...performed, calls: [create(ToolCallSchema, { ...high, approvalId: "" })] },
    {
      ...performed,
      calls: [create(ToolCallSchema, { ...high, outcome: { ...outcome, value: {} } })],
    },
  ]
  for (const each of wrong) expect(callFindings(task, each)).toHaveLength(1)
})

function taskOf(changed: Records): Task {
  return {
    id: "made-up",
    actions: [{ name: "cancel_pending_order", arguments: cancel }],
    results: ['{"status": "cancelled"}'],
    changedRecords: changed,
  }
}
