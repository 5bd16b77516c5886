import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import type { Database } from "./database.ts"
import { asAdmin, openNotes, openNotesAgain, runtime } from "./fixtures/notes-database.ts"
import { newId } from "./ids.ts"
import { createOutbox, enqueue, type OutboxDeps, type OutboxItem } from "./outbox.ts"
import { until } from "./testing.ts"

let notes: Awaited<ReturnType<typeof openNotes>>
let database: Database

beforeEach(async () => {
  notes = await openNotes()
  database = notes.database
})
afterEach(() => notes[Symbol.asyncDispose]())

type Deliver = OutboxDeps["deliver"]

const topic = "test"
const open = (deliver: Deliver, options: Partial<OutboxDeps> = {}) =>
  createOutbox({ database, runtime, topic, deliver, pollMs: 20, backOffMs: 5, ...options })

const itemOf = (text: string): OutboxItem => ({ id: newId(), payload: Buffer.from(text) })

const put = (workspaceId: string, ...texts: string[]) =>
  database.tenant(workspaceId, (tx) => enqueue(tx, topic, texts.map(itemOf)))

/** A receiver that remembers what came, in order, per workspace. */
function receiver() {
  const received = new Map<string, string[]>()
  const deliver: Deliver = async (workspaceId, items) => {
    const texts = items.map((item) => Buffer.from(item.payload).toString())
    received.set(workspaceId, [...(received.get(workspaceId) ?? []), ...texts])
  }
  return { received, deliver }
}

const rowsLeft = async () => {
  const [row] = await asAdmin<{ n: number }>(
    notes.config,
    `select (select count(*) from outbox) + (select count(*) from outbox_due)
       + (select count(*) from outbox_claims) as n`,
  )
  return row?.n
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => String(index))

test("what was committed arrives in order, what was rolled back does not, nothing stays", async () => {
  const { received, deliver } = receiver()
  const ours = newId()
  await put(ours, "a", "b")
  await database
    .tenant(ours, async (tx) => {
      await enqueue(tx, topic, [itemOf("never")])
      throw new Error("rolled back")
    })
    .catch(() => {})
  await put(ours, "c")
  await using outbox = open(deliver)
  outbox.start()
  await until(async () => (await rowsLeft()) === 0)
  expect(received.get(ours)).toEqual(["a", "b", "c"])
})

test("a poke sends at once, without waiting for the next look", async () => {
  const { received, deliver } = receiver()
  await using outbox = open(deliver, { pollMs: 60_000 })
  outbox.start()
  await sleep(100)
  const ours = newId()
  await put(ours, "now")
  outbox.poke()
  await until(() => received.get(ours), { timeoutMs: 2_000 })
})

test("while there is nothing it looks ever less often, until something is there again", async () => {
  const { received, deliver } = receiver()
  let looks = 0
  const worker: Database["worker"] = (ids, work, options) => {
    if (options?.name === "claimOutbox") looks++
    return database.worker(ids, work, options)
  }
  await using outbox = open(deliver, { database: { ...database, worker }, pollMs: 20 })
  outbox.start()
  await sleep(1_500)
  // Every 20 ms it would have been about 75.
  expect(looks).toBeLessThan(25)
  const ours = newId()
  await put(ours, "late")
  await until(() => received.get(ours), { timeoutMs: 2_000 })
})

test("batches keep to their count and size, and one item larger than a batch still goes", async () => {
  const sizes: number[] = []
  const deliver: Deliver = async (_, items) => {
    sizes.push(items.length)
  }
  await put(newId(), "x".repeat(500), ...numbers(7))
  await using outbox = open(deliver, { maxItems: 3, maxBytes: 100 })
  outbox.start()
  await until(async () => (await rowsLeft()) === 0)
  expect(sizes).toEqual([1, 3, 3, 1])
})

describe("a receiver that fails", () => {
  test("gets everything in the end, in order, at least once", async () => {
    const { received, deliver } = receiver()
    const ours = newId()
    await put(ours, ...numbers(30))
    let calls = 0
    const flaky: Deliver = async (workspaceId, items, signal) => {
      calls++
      // Every third call fails before it has an effect, every fifth after it.
      if (calls % 3 === 0) throw new Error("refused")
      await deliver(workspaceId, items, signal)
      if (calls % 5 === 0) throw new Error("the answer was lost")
    }
    await using outbox = open(flaky, { maxItems: 4 })
    outbox.start()
    await until(async () => (await rowsLeft()) === 0)
    const got = received.get(ours) ?? []
    expect(got.length).toBeGreaterThan(30)
    expect([...new Set(got)]).toEqual(numbers(30))
  })

  test("in one workspace does not keep the others waiting", async () => {
    const { received, deliver } = receiver()
    const bad = new Set(Array.from({ length: 12 }, newId))
    const good = Array.from({ length: 12 }, newId)
    for (const id of bad) await put(id, "x")
    for (const id of good) await put(id, ...numbers(5))
    const deliverGood: Deliver = (workspaceId, items, signal) =>
      bad.has(workspaceId)
        ? Promise.reject(new Error("bad workspace"))
        : deliver(workspaceId, items, signal)
    await using outbox = open(deliverGood, { maxItems: 2, backOffMs: 60_000 })
    outbox.start()
    await until(() => good.every((id) => received.get(id)?.length === 5))
    for (const id of good) expect(received.get(id)).toEqual(numbers(5))
  })

  test("that hangs is given up before its lease ends, and asked again", async () => {
    let calls = 0
    const ours = newId()
    const { received, deliver } = receiver()
    const hanging: Deliver = (workspaceId, items, signal) =>
      ++calls === 1 ? new Promise(() => {}) : deliver(workspaceId, items, signal)
    await put(ours, "a")
    await using outbox = open(hanging, { leaseMs: 150 })
    outbox.start()
    await until(() => received.get(ours))
    expect(calls).toBe(2)
  })
})

test("two drainers share the work: no workspace is with both at once, and nothing is lost", async () => {
  await using second = openNotesAgain(notes.config)
  const workspaces = Array.from({ length: 10 }, newId)
  const { received, deliver } = receiver()
  const busy = new Set<string>()
  let overlaps = 0
  const watched: Deliver = async (workspaceId, items, signal) => {
    if (busy.has(workspaceId)) overlaps++
    busy.add(workspaceId)
    await sleep(2)
    await deliver(workspaceId, items, signal)
    busy.delete(workspaceId)
  }
  await using one = open(watched, { maxItems: 5 })
  await using two = open(watched, { maxItems: 5, database: second })
  one.start()
  two.start()
  const writing = workspaces.map(async (id) => {
    for (const text of numbers(40)) await put(id, text)
  })
  await Promise.all(writing)
  await until(async () => (await rowsLeft()) === 0)
  for (const id of workspaces) expect(received.get(id)).toEqual(numbers(40))
  expect(overlaps).toBe(0)
})

test("a drainer that died is replaced when its lease is over", async () => {
  const { received, deliver } = receiver()
  const ours = newId()
  await put(ours, "a")
  await asAdmin(
    notes.config,
    `insert into outbox_claims (workspace_id, topic, owner, free_time)
     values ('${ours}', '${topic}', '${newId()}', now() + interval '300 ms')`,
  )
  await using outbox = open(deliver)
  outbox.start()
  await sleep(100)
  expect(received.get(ours)).toBeUndefined()
  await until(() => received.get(ours))
})

test("a worker may enqueue for several workspaces in one transaction", async () => {
  const { received, deliver } = receiver()
  const [first, second] = [newId(), newId()]
  await database.worker([first, second], (tx) =>
    enqueue(tx, topic, [
      { ...itemOf("1"), workspaceId: first },
      { ...itemOf("2"), workspaceId: second },
    ]),
  )
  await using outbox = open(deliver)
  outbox.start()
  await until(() => received.size === 2)
  expect([received.get(first), received.get(second)]).toEqual([["1"], ["2"]])
})
