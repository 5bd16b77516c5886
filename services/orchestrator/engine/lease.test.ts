/** The right to a run ends before anybody else can have it. */
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"
import { Lease } from "./lease.ts"

const claim = () => ({ workspaceId: newId(), runId: newId(), epoch: 1 })

describe("a lease", () => {
  it("is lost after two thirds of its time, unless it was renewed", async () => {
    const askedAt = performance.now()
    const [left, renewed] = [0, 0].map(() => new Lease(claim(), 600, askedAt))
    await sleep(250)
    renewed?.renew(performance.now())
    await sleep(250)
    expect(left?.lost.isEnded).toBe(true)
    expect(left?.stopped.isEnded).toBe(true)
    expect(renewed?.lost.isEnded).toBe(false)
    await until(() => renewed?.lost.isEnded)
    expect(performance.now() - askedAt).toBeGreaterThan(645)
  })

  it("counts from when it was asked for, and is not found again once it is lost", () => {
    const lease = new Lease(claim(), 600, performance.now() - 450)
    expect(lease.lost.isEnded).toBe(true)
    lease.renew(performance.now())
    expect(() => lease.check()).toThrow("is lost")
  })
})

describe("a replica that cannot renew", () => {
  const peers = createPeers()
  let database: Awaited<ReturnType<typeof testDatabase>>

  beforeAll(async () => {
    database = await testDatabase("orchestrator")
  })
  afterAll(() => database[Symbol.asyncDispose]())

  it("stops its call before the database gives the run away", async () => {
    const aborted = Promise.withResolvers<number>()
    const begun = Promise.withResolvers<void>()
    peers.script.execute = (_, { signal }) => {
      begun.resolve()
      signal.addEventListener("abort", () => aborted.resolve(Date.now()))
      return new Promise(() => {})
    }
    await using replica = await startOrchestrator({ peers, database, executor: { leaseMs: 2_400 } })
    const me = inWorkspace(replica)
    const run = await me.start([{ tool: "low.read" }])
    await begun.promise
    await using holder = await connect(database.workerUrl)
    await holder.query("begin")
    const [row] = await holder.query<{ readonly left_ms: number }>(
      `select extract(epoch from due_time - clock_timestamp())::float8 * 1000 as left_ms
       from run_claims where run_id = $1::uuid for update`,
      [run.runId],
    )
    const givenAway = Date.now() + (row?.left_ms ?? 0)
    const stopped = await aborted.promise
    expect(givenAway - stopped).toBeGreaterThan(400)
    peers.script.execute = () => ({})
    await holder.query("rollback")
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })
})
