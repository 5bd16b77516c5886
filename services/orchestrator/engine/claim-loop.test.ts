/** A restart: everything that waited is due at once, and is taken up bit by bit. */
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
let database: Awaited<ReturnType<typeof testDatabase>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
})
afterAll(() => database[Symbol.asyncDispose]())

describe("a replica that finds very much due", () => {
  it("carries out as many runs at once as it has places, and begins them bit by bit", async () => {
    const maxRuns = 48
    const victim = await startOrchestrator({
      ...{ peers, database },
      executor: { leaseMs: 60_000, pollMs: 60_000, maxRuns: 400 },
    })
    const me = inWorkspace(victim)
    let hanging = 0
    peers.script.execute = () => {
      hanging++
      return new Promise(() => {})
    }
    const runs = await Promise.all(
      Array.from({ length: 300 }, () => me.start([{ tool: "low.read" }])),
    )
    await until(() => hanging === 300)
    let executing = 0
    let most = 0
    const begun: number[] = []
    peers.script.execute = async () => {
      begun.push(performance.now())
      most = Math.max(most, ++executing)
      await new Promise((resolve) => setTimeout(resolve, 20))
      executing--
      return {}
    }
    await using worker = await connect(database.workerUrl)
    await worker.query(
      "update run_claims set owner = $1::uuid, epoch = epoch + 1, due_time = now()",
      [newId()],
    )
    await using heir = await startOrchestrator({
      ...{ peers, database },
      executor: { leaseMs: 30_000, maxRuns },
    })
    const there = inWorkspace(heir, me.workspaceId)
    for (const { runId } of runs) await there.reaches(runId, RunState.SUCCEEDED, 20_000)
    expect(begun).toHaveLength(300)
    expect(most).toBeLessThanOrEqual(maxRuns)
    expect(most).toBeGreaterThan(8)
    await victim[Symbol.asyncDispose]()
  }, 60_000)

  it("wakes a run when its time has come, and not with the next poll", async () => {
    peers.script.execute = () => ({})
    await using replica = await startOrchestrator({
      ...{ peers, database },
      executor: { leaseMs: 30_000, pollMs: 10_000 },
    })
    const me = inWorkspace(replica)
    const late: number[] = []
    for (let n = 0; n < 10; n++) {
      const timeoutMs = 300 + n * 7
      const timeout = { timeout: { seconds: 0n, nanos: timeoutMs * 1e6 } }
      const run = await me.start([{ tool: "high.keyed" }], timeout)
      const ended = await me.reaches(run.runId, RunState.EXPIRED, 20_000)
      const at = (time: typeof ended.endTime) =>
        Number(time?.seconds) * 1_000 + Number(time?.nanos) / 1e6
      late.push(at(ended.endTime) - at(ended.deadline))
    }
    late.sort((a, b) => a - b)
    expect(late[0]).toBeGreaterThanOrEqual(0)
    // Milliseconds on an idle machine; a busy one delays some. By the poll it would be seconds.
    expect(late[5]).toBeLessThan(1_000)
  }, 60_000)
})
