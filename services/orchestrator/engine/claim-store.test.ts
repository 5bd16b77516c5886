/** The claim: what is due is taken in turn, and nothing hides what is behind it. */
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import {
  type Connection,
  connect,
  type Database,
  openDatabase,
  type Tx,
} from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { accuse, claimDue, outliveLease } from "./claim-store.ts"

type Config = Awaited<ReturnType<typeof testDatabase>>

let config: Config
let database: Database
let worker: Connection
let after = ""

beforeAll(async () => {
  config = await testDatabase("orchestrator")
  const migrations = fileURLToPath(new URL("../migrations", import.meta.url))
  database = openDatabase(config, { runtime: testRuntime("orchestrator"), migrations })
  worker = await connect(config.workerUrl)
})
afterAll(async () => {
  await worker[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
  await config[Symbol.asyncDispose]()
})
beforeEach(async () => {
  after = ""
  await worker.query("delete from run_claims")
})

describe("a look", () => {
  it("takes what is due, from each workspace in turn, the longest due first", async () => {
    const [a, b, c] = [newId(), newId(), newId()]
    await insert(a, 50, "1 hour")
    await insert(b, 2, "1 minute")
    await insert(c, 1, "1 second")
    await insert(c, 5, "-1 hour")
    const first = await look(7)
    expect(countsOf(first)).toEqual({ [a]: 4, [b]: 2, [c]: 1 })
    expect(first.isFull).toBe(true)
    const rest = await look(100)
    expect(countsOf(rest)).toEqual({ [a]: 46 })
    expect(rest.isFull).toBe(false)
    expect(await look(100)).toMatchObject({ claims: [] })
  })

  it("says when the next one becomes due", async () => {
    const a = newId()
    expect((await look(10)).nextDueMs).toBeUndefined()
    await insert(a, 1, "-1 hour")
    await insert(a, 1, "-2 seconds")
    const { nextDueMs = 0 } = await look(10)
    expect(nextDueMs).toBeGreaterThan(500)
    expect(nextDueMs).toBeLessThanOrEqual(2_000)
  })

  it("comes to every workspace within two rounds, however much one of them has", async () => {
    const [flood, ...others] = Array.from({ length: 100 }, () => newId()).sort()
    await insert(flood ?? "", 10_001, "1 hour")
    for (const other of others) await insert(other, 1, "1 second")
    const found = new Set<string>()
    // 64 of 100 workspaces have their turn in one look.
    for (let looks = 0; looks < 4; looks++) {
      for (const { workspaceId } of (await look(100)).claims) found.add(workspaceId)
    }
    expect(found.size).toBe(100)
  })

  it("passes over rows that somebody holds", async () => {
    const [a, b] = [newId(), newId()].sort() as [string, string]
    await insert(a, 300, "1 hour")
    await insert(b, 1, "1 second")
    await using holder = await connect(config.workerUrl)
    await holder.query("begin")
    await holder.query(
      `select from run_claims where workspace_id = '${a}' order by due_time limit 299 for update`,
    )
    const found = [...(await look(10)).claims, ...(await look(10)).claims]
    expect(found.map(({ workspaceId }) => workspaceId)).toContain(b)
    await holder.query("rollback")
    expect((await look(10)).claims.length).toBeGreaterThan(0)
  })

  it("gives one run to one of many that look at once", async () => {
    await insert(newId(), 40, "1 second")
    const looks = await Promise.all(Array.from({ length: 8 }, () => look(10, newId())))
    const taken = looks.flatMap(({ claims }) => claims.map(({ runId }) => runId))
    expect(new Set(taken).size).toBe(taken.length)
  })

  it("holds nothing against an owner that lost its lease and lives", async () => {
    await insert(newId(), 1, "1 second")
    const next = async () => {
      await worker.query("update run_claims set due_time = now() - interval '1 second'")
      const [claim] = (await look(1)).claims
      if (claim === undefined) throw new Error("nothing is due")
      return claim
    }
    const inControl = <T>(work: (tx: Tx) => Promise<T>) => database.control([], work)
    const place = "0 executing"
    for (let n = 0; n < 4; n++) {
      const claim = await next()
      expect(await inControl((tx) => accuse(tx, claim, place))).toBe(1)
      await inControl((tx) => outliveLease(tx, claim, true))
    }
    // The same where a successor was quicker, and has counted it too.
    const left = await next()
    await inControl((tx) => accuse(tx, left, place))
    const successor = await next()
    expect(await inControl((tx) => accuse(tx, successor, place))).toBe(2)
    await inControl((tx) => outliveLease(tx, left, true))
    expect((await next()).crashes).toBe(1)
  })

  it("knows whose owner has vanished", async () => {
    await insert(newId(), 2, "1 second")
    const [first, second] = (await look(10)).claims
    expect([first?.isOrphan, second?.isOrphan]).toEqual([false, false])
    await worker.query("update run_claims set due_time = now() - interval '1 second'")
    const again = await look(10)
    expect(again.claims.map(({ isOrphan, epoch }) => [isOrphan, epoch])).toEqual([
      [true, 3],
      [true, 3],
    ])
  })
})

/** Rows that have been due for so long, each a little longer than the next. */
async function insert(workspaceId: string, count: number, dueFor: string): Promise<void> {
  await worker.query(
    `insert into run_claims (workspace_id, run_id, epoch, due_time)
     select $1::uuid, gen_random_uuid(), 1,
       now() - $3::interval + n * interval '1 microsecond'
     from generate_series(1, $2::integer) n`,
    [workspaceId, count, dueFor],
  )
}

async function look(limit: number, owner = "00000000-0000-4000-8000-000000000001") {
  const options = { owner, leaseMs: 60_000, limit, after }
  const found = await claimDue(database, options, AbortSignal.timeout(10_000))
  after = found.seen
  return found
}

function countsOf({ claims }: Awaited<ReturnType<typeof look>>): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { workspaceId } of claims) counts[workspaceId] = (counts[workspaceId] ?? 0) + 1
  return counts
}
