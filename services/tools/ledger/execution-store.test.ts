/** What the ledger's statements hold by themselves, whoever calls them in whatever order. */
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import {
  type Claim,
  type ClaimItem,
  claimExecutions,
  renewExecutions,
  settleExecutions,
  watchExecutions,
} from "./execution-group-store.ts"
import {
  findExecution,
  lockExecution,
  outcomeValues,
  requestCancel,
  seeEpoch,
} from "./execution-store.ts"
import type { Effect, Outcome } from "./ledger.ts"

const stack = new AsyncDisposableStack()
let database: Database

beforeAll(async () => {
  const config = stack.use(await testDatabase("tools"))
  const migrations = join(import.meta.dirname, "../migrations")
  database = stack.use(openDatabase(config, { runtime: testRuntime("tools"), migrations }))
})

afterAll(() => stack.disposeAsync())

const outcomes: readonly Outcome[] = [
  { kind: "succeeded", result: { late: true }, text: '{"late":true}' },
  { kind: "failed", error: { reason: "late", message: 'a "quoted" {one}, \\', metadata: {} } },
  { kind: "outcome_unknown" },
]

function item(changes: Partial<ClaimItem> = {}): ClaimItem {
  return {
    workspaceId: newId(),
    tool: "projects/create",
    idempotencyKey: newId(),
    runId: newId(),
    stepIndex: 0,
    requestDigest: "r",
    definitionDigest: "d",
    effect: "keyed",
    epoch: 1n,
    claimId: newId(),
    ...changes,
  }
}

const claim = (items: readonly ClaimItem[], leaseMs = 60_000) =>
  claimExecutions(database, items, leaseMs)
const kinds = (claims: readonly Claim[]) => claims.map(({ kind }) => kind)

/** One call that was claimed. */
async function claimed(effect: Effect = "keyed", leaseMs = 60_000) {
  const call = item({ effect })
  const { workspaceId, tool, idempotencyKey } = call
  const key = { workspaceId, tool, idempotencyKey }
  expect(kinds(await claim([call], leaseMs))).toEqual(["claimed"])
  const settle = async (values: ReturnType<typeof outcomeValues>, attempt: number | null) => {
    const [state, result, error, usage] = values
    const one = { ...call, state, result, error, usage, attempt, maybeApplied: false }
    return (await settleExecutions(database, [one]))[0]
  }
  return {
    call,
    key,
    record: (outcome: Outcome, attempt: number | null = null) =>
      settle(outcomeValues(outcome), attempt),
    release: (attempt: number) => settle(["in_flight", null, null, null], attempt),
    read: () => database.tenant(workspaceId, (tx) => findExecution(tx, key)),
    hold: async () => (await database.tenant(workspaceId, (tx) => lockExecution(tx, key)))?.hold,
    running: { ...key, attempt: 1 },
  }
}

describe("claiming many calls at once", () => {
  it("gives each key to one of them, whatever else is in the statement", async () => {
    const first = item()
    const others = Array.from({ length: 50 }, (_, i) => item({ tool: `a/b"{${i},\\}` }))
    expect(new Set(kinds(await claim([first, ...others])))).toEqual(new Set(["claimed"]))
    const again = [item(), { ...first, claimId: newId() }, item(), ...others.slice(0, 2)]
    expect(kinds(await claim(again))).toEqual(["claimed", "taken", "claimed", "taken", "taken"])
    const twice = item()
    const both = kinds(await claim([twice, { ...twice, claimId: newId() }]))
    expect(both.sort()).toEqual(["claimed", "taken"])
  })

  it("gives a key to one of many statements", async () => {
    const call = item()
    const all = await Promise.all(
      Array.from({ length: 32 }, () => claim([item(), { ...call, claimId: newId() }, item()])),
    )
    expect(all.map((claims) => claims[1]?.kind).filter((kind) => kind === "claimed")).toHaveLength(
      1,
    )
    expect(all.every(([a, , c]) => a?.kind === "claimed" && c?.kind === "claimed")).toBe(true)
  })

  it("writes only to the workspaces that it names, and reads none of another", async () => {
    const { workspaceId, tool, idempotencyKey } = item()
    await claim([item({ workspaceId, tool, idempotencyKey })])
    expect(kinds(await claim([item({ tool, idempotencyKey })]))).toEqual(["claimed"])
    const stranger = { workspaceId: newId(), tool, idempotencyKey }
    const found = await database.tenant(stranger.workspaceId, (tx) =>
      findExecution(tx, { workspaceId, tool, idempotencyKey }),
    )
    expect(found).toBeUndefined()
    const foreign = database.worker([stranger.workspaceId], (tx) =>
      tx.query("update executions set lease_until = null returning 1 as one"),
    )
    expect(await foreign).toEqual([])
  })
})

describe("an outcome", () => {
  it.each(["succeeded", "failed"] as const)("%s is never overwritten", async (kind) => {
    const call = await claimed("unsafe")
    const first = outcomes.find((outcome) => outcome.kind === kind) ?? { kind: "outcome_unknown" }
    expect(await call.record(first, 1)).toBeDefined()
    const recorded = await call.read()
    expect(recorded).toMatchObject({
      state: kind,
      ...(first.kind === "succeeded" ? { result: first.result } : {}),
      ...(first.kind === "failed" ? { error: first.error } : {}),
    })
    for (const outcome of outcomes) expect(await call.record(outcome)).toBeUndefined()
    expect(await call.release(1)).toBeUndefined()
    expect(await call.read()).toEqual(recorded)
    expect(kinds(await claim([{ ...call.call, claimId: newId() }]))).toEqual(["taken"])
  })

  it("unknown becomes an outcome, and is never open again", async () => {
    const call = await claimed("unsafe")
    await call.record({ kind: "outcome_unknown" }, 1)
    expect(await call.release(1)).toBeUndefined()
    expect(await call.record({ kind: "outcome_unknown" }, 1)).toBeUndefined()
    for (const outcome of outcomes.slice(0, 1)) {
      expect(await call.record(outcome)).toBeDefined()
    }
  })

  it("without the tool's own word is recorded only by the sender that holds the row", async () => {
    const call = await claimed()
    const [, lateFailure] = outcomes
    if (lateFailure === undefined) throw new Error("no outcome")
    expect(await call.record(lateFailure, 2)).toBeUndefined()
    expect((await call.read())?.state).toBe("in_flight")
    expect(await call.record({ kind: "succeeded", result: {}, text: "{}" })).toBeDefined()
  })

  it("unknown is for unsafe calls only, by the table itself", async () => {
    const call = await claimed("keyed")
    await expect(call.record({ kind: "outcome_unknown" }, 1)).rejects.toThrow(/check constraint/)
  })

  it("of one call does not hang on those beside it", async () => {
    const [one, two, three] = [await claimed(), await claimed(), await claimed()]
    await two.record({ kind: "succeeded", result: {}, text: "{}" })
    const of = ({ call }: typeof one) => ({
      ...call,
      ...{ state: "succeeded", result: "{}", error: null, usage: null },
      ...{ attempt: null, maybeApplied: false },
    })
    const settled = await settleExecutions(database, [of(one), of(two), of(three)])
    expect(settled.map((done) => done !== undefined)).toEqual([true, false, true])
  })
})

describe("a lease", () => {
  it("is given back by its holder only, and ends by the clock of the database", async () => {
    const call = await claimed()
    expect(await call.hold()).toBe("held")
    expect(await call.release(2)).toBeUndefined()
    expect(await call.hold()).toBe("held")
    expect(await call.release(1)).toBeDefined()
    expect(await call.hold()).toBe("open")
    expect(await (await claimed("read", 0)).hold()).toBe("expired")
  })

  it("is renewed for those who hold it, also after its end while nobody took it", async () => {
    const [live, late, open, done] = [
      await claimed("keyed", 500),
      await claimed("keyed", 0),
      await claimed(),
      await claimed(),
    ]
    await open.release(1)
    await done.record({ kind: "succeeded", result: {}, text: "{}" })
    const stranger = { ...late.running, attempt: 2 }
    expect(await renewExecutions(database, [stranger], 60_000)).toEqual(["lost"])
    expect(await late.hold()).toBe("expired")
    const items = [live.running, { ...live.running, attempt: 2 }, late.running, open.running]
    expect(await renewExecutions(database, [...items, done.running], 60_000)).toEqual([
      ...["mine", "lost", "mine", "lost", "lost"],
    ])
    expect([await live.hold(), await late.hold(), await open.hold()]).toEqual([
      ...["held", "held", "open"],
    ])
  })

  it("tells its holder that somebody wants the call to stop", async () => {
    const [stopped, other, done] = [await claimed(), await claimed(), await claimed("read", 0)]
    const cancel = ({ key }: typeof done) =>
      database.tenant(key.workspaceId, (tx) => requestCancel(tx, key))
    expect([await cancel(stopped), await cancel(done)]).toEqual([true, false])
    const running = [stopped.running, other.running]
    expect(await watchExecutions(database, running)).toEqual(["cancelled", "mine"])
    expect(await renewExecutions(database, running, 60_000)).toEqual(["cancelled", "mine"])
  })
})

describe("the epoch of a run", () => {
  it("never falls", async () => {
    const [workspaceId, runId] = [newId(), newId()]
    const see = (epoch: bigint) =>
      database.tenant(workspaceId, (tx) => seeEpoch(tx, { workspaceId, runId, epoch }))
    const seen = [await see(1n), await see(3n), await see(2n), await see(9_007_199_254_740_993n)]
    expect(seen).toEqual([1n, 3n, 3n, 9_007_199_254_740_993n])
  })

  it("refuses every earlier owner, for steps too that the later one never touched", async () => {
    const { workspaceId, runId } = item()
    const of = (epoch: bigint) => item({ workspaceId, runId, epoch })
    expect(kinds(await claim([of(1n)]))).toEqual(["claimed"])
    expect(kinds(await claim([item(), of(2n)]))).toEqual(["claimed", "claimed"])
    expect(kinds(await claim([of(1n), item({ epoch: 1n }), of(3n)]))).toEqual([
      ...["lease_lost", "claimed", "claimed"],
    ])
    expect(kinds(await claim([of(2n), of(3n), of(1n)]))).toEqual([
      ...["lease_lost", "claimed", "lease_lost"],
    ])
    const stored = await database.worker([workspaceId], (tx) =>
      tx.query("select epoch from run_epochs"),
    )
    expect(stored).toEqual([{ epoch: 3 }])
  })

  it("is written for no run that had one owner", async () => {
    const call = item()
    await claim([call])
    const { workspaceId, runId } = call
    await database.tenant(workspaceId, (tx) => seeEpoch(tx, { workspaceId, runId, epoch: 1n }))
    const rows = database.worker([workspaceId], (tx) => tx.query("select 1 as one from run_epochs"))
    expect(await rows).toEqual([])
  })
})
