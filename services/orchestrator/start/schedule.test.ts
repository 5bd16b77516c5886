import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { type Run, RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { BusyThreadPolicy } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
const defaults = { ...peers.script }
let database: Awaited<ReturnType<typeof testDatabase>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
})

const steps = [{ tool: "low.keyed" }]
// The poll is long: what begins in time was waited for.
const start = () => startOrchestrator({ peers, database, executor: { pollMs: 10_000 } })
const delayed = (ms: number) => ({
  delay: { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 },
})

type Me = ReturnType<typeof inWorkspace>

/** By how much a run began after its time, by the clock of the database. */
async function lateness(me: Me, { runId, startTime }: Run): Promise<number> {
  await me.reaches(runId, RunState.SUCCEEDED)
  const began = (await me.history(runId)).find(
    ({ kind }) => kind.case === "runStateChanged" && kind.value.state === RunState.RUNNING,
  )
  if (began?.time === undefined || startTime === undefined) throw new Error("it has not begun")
  return timestampDate(began.time).getTime() - timestampDate(startTime).getTime()
}

describe("a run that begins later", () => {
  it("is stored, listed and not touched until its time, and begins then", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const run = await me.start(steps, delayed(600))
    expect(run).toMatchObject({ state: RunState.QUEUED, reason: "scheduled" })
    const { workspaceId, requester } = me
    const filter = { workspaceId, states: [RunState.QUEUED] }
    const { runs } = await orchestrator.runs.listRuns(filter, requester)
    expect(runs.map(({ runId }) => runId)).toEqual([run.runId])
    expect(peers.judged.some(({ runId }) => runId === run.runId)).toBe(false)
    expect(await lateness(me, run)).toBeGreaterThanOrEqual(0)
  })

  it("begins within a moment of its time, however many do", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const at = (ms: number) => ({ startTime: timestampFromDate(new Date(Date.now() + ms)) })
    const runs = await Promise.all(
      Array.from({ length: 16 }, (_, index) => me.start(steps, at(1_500 + 50 * index))),
    )
    const late = (await Promise.all(runs.map((run) => lateness(me, run)))).toSorted((a, b) => a - b)
    expect(late[0]).toBeGreaterThanOrEqual(-1)
    // Milliseconds on an idle machine. This one may be busy; without waiting for the next one that is
    // due it would be seconds.
    expect(late[Math.floor(late.length / 2)]).toBeLessThan(1_500)
  })

  it("is woken by a start that is due sooner than what is waited for", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const far = await me.start(steps, delayed(60_000))
    await new Promise((resolve) => setTimeout(resolve, 100))
    const near = await me.start(steps, delayed(200))
    expect(await lateness(me, near)).toBeLessThan(2_000)
    expect((await me.get(far.runId)).state).toBe(RunState.QUEUED)
  })

  it("is made up for by whoever comes after its time has passed", async () => {
    const first = await start()
    const { workspaceId } = inWorkspace(first)
    const run = await inWorkspace(first, workspaceId).start(steps, delayed(200))
    await first[Symbol.asyncDispose]()
    await new Promise((resolve) => setTimeout(resolve, 300))
    await using second = await start()
    await inWorkspace(second, workspaceId).reaches(run.runId, RunState.SUCCEEDED)
  })

  it("can be cancelled before, and then never begins", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const run = await me.start(steps, delayed(2_000))
    await me.cancel(run.runId)
    await new Promise((resolve) => setTimeout(resolve, 2_200))
    expect((await me.get(run.runId)).state).toBe(RunState.CANCELLED)
    expect(peers.judged.some(({ runId }) => runId === run.runId)).toBe(false)
  })

  it("goes back to sleep where somebody looks too early", async () => {
    await using orchestrator = await startOrchestrator({ peers, database })
    const me = inWorkspace(orchestrator)
    const run = await me.start(steps, delayed(2_000))
    await using worker = await connect(database.workerUrl)
    await worker.query("update run_claims set due_time = now() where run_id = $1::uuid", [
      run.runId,
    ])
    await until(async () => {
      const [row] = await worker.query<{ early: boolean }>(
        "select owner is null and due_time > now() as early from run_claims where run_id = $1::uuid",
        [run.runId],
      )
      return row?.early === true
    })
    expect(await lateness(me, run)).toBeGreaterThanOrEqual(0)
  })

  it("has its timeout and its wall time from then on", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const run = await me.start(steps, {
      ...delayed(3_100),
      timeout: { seconds: 3n },
      budget: { maxWallTime: { seconds: 3n } },
    })
    const { startTime, deadline } = await me.get(run.runId)
    if (startTime === undefined || deadline === undefined) throw new Error("no times")
    expect(timestampDate(deadline).getTime() - timestampDate(startTime).getTime()).toBe(3_000)
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })

  it("gets in the line of its thread when its time has come", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const threadId = newId()
    const order: string[] = []
    peers.script.execute = async ({ runId }) => {
      order.push(runId)
      await new Promise((resolve) => setTimeout(resolve, 300))
      return {}
    }
    const later = await me.start(steps, { threadId, ...delayed(150) })
    const now = await me.start(steps, { threadId })
    expect(now.state).not.toBe(RunState.QUEUED)
    await me.reaches(later.runId, RunState.SUCCEEDED)
    expect(order).toEqual([now.runId, later.runId])
    const request = { workspaceId: me.workspaceId, threadId }
    const { thread } = await orchestrator.threads.getThread(request, me.requester)
    expect(thread).toMatchObject({ currentRunId: "", queuedRunIds: [], runCount: 2n })
  })

  it("looks again and again while the line of its thread is full, and then joins its end", async () => {
    await using orchestrator = await startOrchestrator({ peers, database })
    const me = inWorkspace(orchestrator)
    const threadId = newId()
    const request = { workspaceId: me.workspaceId, threadId }
    const gate = Promise.withResolvers<void>()
    const order: string[] = []
    peers.script.execute = async ({ runId }) => {
      order.push(runId)
      await gate.promise
      return {}
    }
    const first = await me.start(steps, { threadId })
    const others = await Promise.all(
      Array.from({ length: 99 }, () => me.start(steps, { threadId })),
    )
    const later = await me.start(steps, { threadId, ...delayed(100) })
    await using worker = await connect(database.workerUrl)
    const claim = `select epoch::integer, crashes from run_claims where run_id = $1::uuid
      and owner is null and due_time > now() and due_time <= now() + interval '1 second'`
    const looks = (epoch: number) =>
      until(async () => {
        const [row] = await worker.query<{ epoch: number; crashes: number }>(claim, [later.runId])
        return row !== undefined && row.epoch > epoch && row
      })
    const early = await looks(1)
    expect(await looks(early.epoch)).toMatchObject({ crashes: 0 })
    expect((await me.get(later.runId)).state).toBe(RunState.QUEUED)
    const full = await orchestrator.threads.getThread(request, me.requester)
    expect(full.thread?.queuedRunIds).not.toContain(later.runId)
    const [second, ...rest] = others.toSorted((a, b) => (a.runId < b.runId ? -1 : 1))
    await Promise.all(rest.map(({ runId }) => me.cancel(runId)))
    await until(async () => {
      const { thread } = await orchestrator.threads.getThread(request, me.requester)
      return thread?.queuedRunIds.at(-1) === later.runId
    })
    gate.resolve()
    await me.reaches(later.runId, RunState.SUCCEEDED)
    expect(order).toEqual([first.runId, second?.runId, later.runId])
  }, 30_000)

  it("begins at once where its time has passed", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const startTime = timestampFromDate(new Date(Date.now() - 60_000))
    const run = await me.start(steps, { startTime })
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })

  it("says one thing only", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const startTime = timestampFromDate(new Date(Date.now() + 60_000))
    const { REJECT, CANCEL_OTHER } = BusyThreadPolicy
    for (const extra of [
      { startTime, ...delayed(1_000) },
      { startTime, threadId: newId(), onBusyThread: REJECT },
      { ...delayed(1_000), threadId: newId(), onBusyThread: CANCEL_OTHER },
      { startTime: timestampFromDate(new Date(Date.now() + 400 * 86_400_000)) },
    ]) {
      const refused = await me.start(steps, extra).catch((error) => error)
      expect(reasonOf(refused)).toBe("INVALID_REQUEST")
    }
  })
})
