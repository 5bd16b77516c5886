/** A claim whose answer was lost on the way: it finds its own row again, and nobody else's. */
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { admitLocked, admitSeen } from "./admission.ts"
import type { ClaimItem } from "./execution-group-store.ts"
import type { Effect } from "./ledger.ts"
import { createLedgerWriter, type LedgerWriter } from "./ledger-writer.ts"

const stack = new AsyncDisposableStack()
const runtime = testRuntime("tools")
let database: Database
/** How many answers of the database get lost, after what was asked for was done. */
let losses = 0
let writer: LedgerWriter

beforeAll(async () => {
  const config = stack.use(await testDatabase("tools"))
  const migrations = join(import.meta.dirname, "../migrations")
  database = stack.use(openDatabase(config, { runtime, migrations }))
  const flaky: Database = {
    ...database,
    async batch(...args) {
      const rows = await database.batch(...args)
      if (losses-- > 0)
        throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "database" })
      return rows as never
    },
  }
  writer = stack.use(createLedgerWriter({ database: flaky, runtime, leaseMs: 60_000 }))
})

afterAll(() => stack.disposeAsync())

function item(effect: Effect): ClaimItem {
  const runId = newId()
  return {
    ...{ workspaceId: newId(), tool: "p/t", idempotencyKey: `${runId}/0`, runId, stepIndex: 0 },
    ...{ requestDigest: "r", definitionDigest: "d", effect, epoch: 1n, claimId: newId() },
  }
}

const admit = (call: ClaimItem) =>
  database.tenant(call.workspaceId, (tx) =>
    admitLocked(tx, call, { leaseMs: 60_000, leasedAt: performance.now() }),
  )

const expire = ({ workspaceId, idempotencyKey }: ClaimItem) =>
  database.tenant(workspaceId, (tx) =>
    tx.query("update executions set lease_until = now() where idempotency_key = $1::text", [
      idempotencyKey,
    ]),
  )

describe("a claim whose answer was lost", () => {
  it.each(["read", "keyed", "unsafe"] as const)("goes on with its own %s row", async (effect) => {
    const call = item(effect)
    losses = 2
    expect((await writer.claim(call)).kind).toBe("taken")
    const row = await writer.look(call)
    expect(row).toMatchObject({ hold: "held", attempts: 1 })
    expect(admitSeen(row, call)).toBeUndefined()
    expect(await admit(call)).toMatchObject({
      next: "send",
      held: { attempt: 1, maybeApplied: false },
    })
    expect(await writer.look(call)).toMatchObject({ attempts: 1, maybeApplied: false })
  })

  it("goes on also when its lease ended meanwhile: it knows that it sent nothing", async () => {
    const call = item("unsafe")
    losses = 1
    await writer.claim(call)
    await expire(call)
    expect(await admit(call)).toMatchObject({ next: "send", held: { attempt: 1 } })
    expect((await writer.look(call))?.hold).toBe("held")
  })

  it("does not take another request's row for its own", async () => {
    const call = item("unsafe")
    await writer.claim(call)
    const other = { ...call, claimId: newId() }
    expect(() => admitSeen({ ...call, hold: "held" } as never, other)).toThrow()
    expect(reasonOf(await admit(other).catch((error: unknown) => error))).toBe(
      "IDEMPOTENCY_IN_PROGRESS",
    )
    await expire(call)
    expect(await admit(other)).toMatchObject({ next: "probe", row: { state: "outcome_unknown" } })
  })

  it("goes on with nothing once a later owner came", async () => {
    const call = item("keyed")
    await writer.claim(call)
    expect((await writer.claim({ ...call, claimId: newId(), epoch: 2n })).kind).toBe("taken")
    expect(reasonOf(await admit(call).catch((error: unknown) => error))).toBe("LEASE_LOST")
  })

  it("is given up while the database stays away", async () => {
    losses = 100
    expect(reasonOf(await writer.claim(item("read")).catch((error: unknown) => error))).toBe(
      "DEPENDENCY_UNAVAILABLE",
    )
    losses = 0
  })
})

describe("an outcome whose answer was lost", () => {
  it("is recorded once, and found recorded when it is asked for again", async () => {
    const call = item("unsafe")
    await writer.claim(call)
    losses = 1
    const settled = await writer.settle({
      ...call,
      ...{ state: "succeeded", result: '{"n":1}', error: null, usage: null },
      ...{ attempt: null, maybeApplied: false },
    })
    expect(settled).toBeUndefined()
    expect(await writer.look(call)).toMatchObject({ state: "succeeded", result: { n: 1 } })
  })

  it("of any size is recorded", async () => {
    const [small, large] = [item("keyed"), item("keyed")]
    await Promise.all([writer.claim(small), writer.claim(large)])
    const text = { text: "x".repeat(200_000) }
    const settle = (call: ClaimItem, result: object) =>
      writer.settle({
        ...call,
        ...{
          state: "succeeded",
          result: JSON.stringify(result),
          error: null,
          usage: null,
          attempt: 1,
        },
        maybeApplied: false,
      })
    await Promise.all([settle(large, text), settle(small, { n: 1 })])
    expect([(await writer.look(small))?.result, (await writer.look(large))?.result]).toEqual([
      { n: 1 },
      text,
    ])
  })
})
