/** Search by meaning on a PostgreSQL that has pgvector: PGlite, with the service's own migrations. */
import { join } from "node:path"
import { PGlite } from "@electric-sql/pglite"
import { vector } from "@electric-sql/pglite-pgvector"
import { afterAll, beforeAll, expect, test } from "vitest"
import type { Tx } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { migrate } from "../../../mesh/migrations.ts"
import { testRuntime } from "../../../mesh/testing.ts"
import { analyse } from "../analysis.ts"
import { ingest, remove } from "../ingestion.ts"
import { createStemCache } from "../stem-cache.ts"
import { createEmbedder, type Embedder } from "./embedder.ts"
import { type EndpointDouble, startEndpoint, testDimensions, vectorOf } from "./endpoint-double.ts"
import { createSearcher, createVectors, type Searcher } from "./searcher.ts"
import { findNearest, storeVectors } from "./vector-store.ts"

const signal = new AbortController().signal
const limits = { passages: 10, perDocument: 3 }

let pglite: PGlite
let endpoint: EndpointDouble
let embedder: Embedder
let searcher: Searcher
beforeAll(async () => {
  pglite = await PGlite.create({ extensions: { vector } })
  await pglite.exec("create role app; create role worker")
  await migrate(
    { query: (sql, values) => run(sql, values), [Symbol.asyncDispose]: async () => {} },
    {
      folder: join(import.meta.dirname, "..", "migrations"),
      appUrl: "postgres://app@localhost/retrieval",
      workerUrl: "postgres://worker@localhost/retrieval",
    },
  )
  endpoint = await startEndpoint()
  const { url } = endpoint
  const config = { url, model: "m", dimensions: testDimensions, key: undefined, timeoutMs: 10_000 }
  embedder = createEmbedder(config)
  const vectors = createVectors({ shared: (work) => asTenant("", work) }, embedder)
  const { log } = testRuntime("retrieval")
  searcher = createSearcher({ database: { tenant: asTenant }, vectors, log })
}, 60_000)
afterAll(async () => {
  await embedder[Symbol.asyncDispose]()
  await endpoint[Symbol.asyncDispose]()
  await pglite.close()
})

test("what means the same is found without a word in common, and only by meaning", async () => {
  const own = newId()
  const car = await store(own, "An automobile has four wheels.")
  await store(own, "A physician heals.")
  const hybrid = await search(own, "car", "hybrid")
  expect(hybrid.mode).toBe("hybrid")
  expect(hybrid.passages[0]?.documentId).toBe(car)
  expect((await search(own, "car", "lexical")).passages).toEqual([])
  expect((await search(own, "car", "best")).mode).toBe("hybrid")
})

test("only the newest version is found, and nothing of a deleted document", async () => {
  const own = newId()
  const id = await store(own, "An automobile.")
  await store(own, "A sofa.", id, 2)
  const [found] = (await search(own, "vehicle couch", "hybrid")).passages
  expect(found).toMatchObject({ documentId: id, version: 2, text: "A sofa." })
  await asTenant(own, (tx) => remove(tx, id, 2))
  expect((await search(own, "couch", "hybrid")).passages).toEqual([])
  expect(await run("select 1 from passage_vectors where document_id = $1::uuid", [id])).toEqual([])
})

test("a crowd of nearer vectors in other workspaces changes nothing, with the index and without", async () => {
  const own = newId()
  const ids = [
    await store(own, "An automobile and a doctor."),
    await store(own, "A couch for the vehicle."),
    await store(own, "Something else altogether."),
  ]
  for (let other = 0; other < 4; other++) {
    const neighbour = newId()
    const id = await store(neighbour, "A car.")
    const crowd = Array.from({ length: 60 }, (_, i) =>
      vectorOf(`car automobile ${"x".repeat(i + 1)}`),
    )
    await asTenant(neighbour, (tx) => storeVectors(tx, id, 1, "m", crowd))
  }
  const near = { vector: vectorOf("car"), model: "m", documentIds: [], limit: 3 }
  const exact = await asTenant(own, (tx) => findNearest(tx, near))
  const walked = await asTenant(own, async (tx) => {
    // Without sorting only the index gives them in order, in a table as small as this one too.
    await tx.query("set local enable_sort = off")
    return await findNearest(tx, near, 0)
  })
  expect(exact.map(({ documentId }) => documentId).sort()).toEqual([...ids].sort())
  expect(walked).toEqual(exact)
  const kept = { ...near, documentIds: [ids[2] ?? ""] }
  expect(await asTenant(own, (tx) => findNearest(tx, kept))).toHaveLength(1)
  const foreign = { ...near, model: "another" }
  expect(await asTenant(own, (tx) => findNearest(tx, foreign))).toEqual([])
}, 120_000)

test("row-level security holds for vectors as well", async () => {
  const [own, other] = [newId(), newId()]
  await store(other, "An automobile.")
  const seen = await asTenant(own, (tx) => tx.query("select 1 from passage_vectors"))
  expect(seen).toEqual([])
})

test("without the endpoint search goes on by words, and says so where vectors were asked for", async () => {
  const own = newId()
  await store(own, "An automobile.")
  endpoint.fault = "status"
  const found = await search(own, "automobile", "best")
  expect(found.mode).toBe("lexical")
  expect(found.passages).toHaveLength(1)
  await expect(search(own, "automobile", "hybrid")).rejects.toMatchObject({
    reason: "DEPENDENCY_UNAVAILABLE",
  })
  endpoint.fault = undefined
})

function search(workspaceId: string, text: string, mode: "best" | "lexical" | "hybrid") {
  return searcher.search(workspaceId, { text, documentIds: [], limits }, mode, signal)
}

async function store(workspaceId: string, content: string, documentId = newId(), version = 1) {
  const fixed = { title: "T", mediaType: "text/plain", sourceUri: "" } as const
  const submission = { ...fixed, documentId, version, content }
  const analysis = await analyse(submission)
  const vectors = await embedder.embed(analysis.passages.map(({ text }) => text))
  const options = { stemCache: createStemCache(), keptVersions: 3 }
  const embedded = { model: "m", vectors }
  await asTenant(workspaceId, (tx) => ingest(tx, submission, analysis, options, embedded))
  return documentId
}

/** A transaction as the service's role, in one workspace. */
function asTenant<T>(workspaceId: string, work: (tx: Tx) => Promise<T>): Promise<T> {
  return pglite.transaction(async (transaction) => {
    await transaction.query("set local role app")
    await transaction.query("select set_config('runwarden.workspace_id', $1, true)", [workspaceId])
    const query = async <Row>(sql: string, values: readonly unknown[] = []) =>
      (await transaction.query<Row>(sql, [...values])).rows
    return await work({
      workspaceId: workspaceId === "" ? undefined : workspaceId,
      query,
      async one<Row>(sql: string, values?: readonly unknown[]) {
        const [row] = await query<Row>(sql, values)
        if (row === undefined) throw new Error("there is no row")
        return row
      },
      maybe: async <Row>(sql: string, values?: readonly unknown[]) =>
        (await query<Row>(sql, values))[0],
    })
  })
}

async function run<Row>(sql: string, values?: readonly unknown[]): Promise<readonly Row[]> {
  if (values !== undefined) return (await pglite.query<Row>(sql, [...values])).rows
  const results = await pglite.exec(sql)
  return (results.at(-1)?.rows ?? []) as Row[]
}
