/** What keeps workspaces apart when a statement forgets to, and what others' documents cost a search. */
import { join } from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { connect, openDatabase } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../mesh/testing.ts"
import { type Harness, startRetrieval } from "./retrieval-harness.ts"

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

const tables = [
  "documents",
  "document_versions",
  "postings",
  "corpora",
  "vocabulary",
  "requests",
  "outbox",
]

test.each(tables)(
  "a statement on %s without a workspace sees and changes its own only",
  async (table) => {
    const [own, other] = [harness.newTenant(), harness.newTenant()]
    for (const tenant of [own, other]) await tenant.ingest(newId(), 1, "wombats dig burrows")
    const { database } = harness
    const seen = await database.tenant(own.workspaceId, (tx) =>
      tx.query<{ id: string }>(`select distinct workspace_id as id from ${table}`),
    )
    // What the outbox held may have been delivered by now.
    expect(seen.filter(({ id }) => id !== own.workspaceId)).toEqual([])
    if (table !== "outbox") expect(seen).toHaveLength(1)
    const nobody = await database.shared((tx) => tx.query(`select 1 from ${table}`))
    expect(nobody).toEqual([])
  },
)

test("a row of another workspace cannot be written", async () => {
  const own = harness.newTenant()
  const { database } = harness
  const foreign = database.tenant(own.workspaceId, (tx) =>
    tx.query("insert into corpora values ($1::uuid, 1, 1)", [newId()]),
  )
  await expect(foreign).rejects.toThrow(/row-level security/)
})

test.each(["documents", "document_versions", "postings", "corpora", "vocabulary"])(
  "a database whose %s has no row-level security is not served from",
  async (table) => {
    await using config = await testDatabase("retrieval")
    await using database = openDatabase(config, {
      runtime: testRuntime("retrieval"),
      migrations: join(import.meta.dirname, "migrations"),
    })
    await database.verify()
    await using owner = await connect(config.ownerUrl)
    await owner.query(`alter table ${table} disable row level security`)
    await expect(database.verify()).rejects.toThrow(table)
  },
)

test("one small workspace among twenty big ones finds, scores and counts as when alone", async () => {
  await using elsewhere = await startRetrieval()
  const [among, alone] = [harness.newTenant(), elsewhere.newTenant()]
  const text = (i: number) =>
    `# Page ${i}\n\n${"the wombat digs ".repeat(i + 1)}a burrow of its own`
  for (let i = 0; i < 5; i++) {
    const id = newId()
    for (const tenant of [among, alone]) await tenant.ingest(id, 1, text(i), { title: `Page ${i}` })
  }
  const big = Array.from({ length: 20 }, () => harness.newTenant())
  const words = (seed: number) =>
    Array.from({ length: 300 }, (_, i) => `wombat word${(seed * 7 + i * 13) % 900} burrow`).join(
      " ",
    )
  await Promise.all(
    big.map(async (tenant, k) => {
      for (let i = 0; i < 15; i++) await tenant.ingest(newId(), 1, words(k * 15 + i))
    }),
  )
  const queries = ["wombat", "burrow of its own", "page 3", "wonbat", "nothing here"]
  for (const query of queries) {
    const limits = { perDocumentLimit: 10 }
    expect(await among.search(query, limits)).toEqual(await alone.search(query, limits))
  }
  // In turns, so that whatever else the machine does falls on both alike.
  const times = { among: [] as number[], alone: [] as number[] }
  for (let i = 0; i < 120; i++) {
    const query = queries[i % queries.length] ?? ""
    times.among.push(await timeOf(() => among.search(query)))
    times.alone.push(await timeOf(() => alone.search(query)))
  }
  // Twenty neighbours hold a hundred times as much; a search that read theirs would take many times
  // as long.
  expect(middleOf(times.among) / middleOf(times.alone)).toBeLessThan(2)
}, 120_000)

async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

function middleOf(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
}
