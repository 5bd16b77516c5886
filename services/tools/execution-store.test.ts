/** What the ledger's statements hold by themselves, whoever calls them in whatever order. */
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Database, openDatabase } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../mesh/testing.ts"
import {
  claimSending,
  findExecution,
  insertIntent,
  recordOutcome,
  releaseExecution,
  seeEpoch,
} from "./execution-store.ts"
import type { Effect, Outcome } from "./ledger.ts"

const stack = new AsyncDisposableStack()
let database: Database

beforeAll(async () => {
  const config = stack.use(await testDatabase("tools"))
  const migrations = join(import.meta.dirname, "migrations")
  database = stack.use(openDatabase(config, { runtime: testRuntime("tools"), migrations }))
})

afterAll(() => stack.disposeAsync())

const outcomes: readonly Outcome[] = [
  { kind: "succeeded", result: { late: true } },
  { kind: "failed", error: { reason: "late", message: "", metadata: {} } },
  { kind: "outcome_unknown" },
]

async function intent(effect: Effect = "keyed", leaseMs = 60_000) {
  const workspaceId = newId()
  const key = { workspaceId, tool: "projects/create", idempotencyKey: newId() }
  const digests = { requestDigest: "r", definitionDigest: "d" }
  const row = { ...key, ...digests, runId: newId(), stepIndex: 0, effect, leaseMs }
  await database.tenant(workspaceId, (tx) => insertIntent(tx, row))
  return {
    ...row,
    record: (outcome: Outcome, attempt?: number) =>
      database.tenant(workspaceId, (tx) => recordOutcome(tx, key, outcome, attempt)),
    claim: (attempt: number) =>
      database.tenant(workspaceId, (tx) => claimSending(tx, key, attempt, 60_000)),
    release: (attempt: number) =>
      database.tenant(workspaceId, (tx) => releaseExecution(tx, key, attempt)),
    read: () => database.tenant(workspaceId, (tx) => findExecution(tx, key)),
    insertAgain: () => database.tenant(workspaceId, (tx) => insertIntent(tx, row)),
  }
}

describe("an outcome", () => {
  it.each(["succeeded", "failed"] as const)("%s is never overwritten", async (kind) => {
    const call = await intent("unsafe")
    const first = outcomes.find((outcome) => outcome.kind === kind) ?? { kind: "outcome_unknown" }
    const recorded = await call.record(first, 1)
    expect(recorded.state).toBe(kind)
    for (const outcome of outcomes) expect(await call.record(outcome, undefined)).toEqual(recorded)
    expect(await call.claim(1)).toBeUndefined()
    expect(await call.insertAgain()).toBeUndefined()
  })

  it("without the tool's own word is recorded only by the sender that holds the row", async () => {
    const call = await intent()
    expect((await call.claim(1))?.attempts).toBe(2)
    expect((await call.record({ kind: "failed", error: outcomeError }, 1)).state).toBe("in_flight")
    expect((await call.record({ kind: "succeeded", result: {} }, undefined)).state).toBe(
      "succeeded",
    )
  })

  it("unknown is for unsafe calls only, by the table itself", async () => {
    const call = await intent("keyed")
    await expect(call.record({ kind: "outcome_unknown" }, 1)).rejects.toThrow(/check constraint/)
  })
})

describe("a lease", () => {
  it("is taken, given back by its holder only, and ends by the clock of the database", async () => {
    const call = await intent()
    expect((await call.read())?.is_leased).toBe(true)
    await call.release(2)
    expect((await call.read())?.is_leased).toBe(true)
    await call.release(1)
    expect((await call.read())?.is_leased).toBe(false)
    expect((await (await intent("read", 0)).read())?.is_leased).toBe(false)
  })

  it("is claimed by one of many", async () => {
    const call = await intent("keyed", 0)
    const claims = await Promise.all(Array.from({ length: 16 }, () => call.claim(1)))
    expect(claims.filter((row) => row !== undefined)).toHaveLength(1)
  })
})

it("an epoch never falls", async () => {
  const workspaceId = newId()
  const runId = newId()
  const see = (epoch: bigint) =>
    database.tenant(workspaceId, (tx) => seeEpoch(tx, workspaceId, runId, epoch))
  expect([await see(3n), await see(2n), await see(9_007_199_254_740_993n)]).toEqual([
    3n,
    3n,
    9_007_199_254_740_993n,
  ])
})

const outcomeError = { reason: "provider_unavailable", message: "", metadata: {} }
