import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { inWorkspace, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"
import { clockFrom } from "../run/snapshot.ts"
import { Scope } from "../scope.ts"
import { createPeers } from "../scripted-peers.ts"
import { callTime } from "./call-time.ts"

let orchestrator: Orchestrator
const peers = createPeers()
const defaults = { ...peers.script }

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

const isEnded = (me: ReturnType<typeof inWorkspace>, runId: string) =>
  until(async () => {
    const run = await me.get(runId)
    return run.endTime !== undefined && run
  })

describe("a call that has a time of its own", () => {
  it("is told to stop when it is over, and ends the run", async () => {
    const me = inWorkspace(orchestrator)
    let isStopped = false
    peers.script.execute = (_, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener("abort", () => {
          isStopped = true
          reject(new Error("stopped"))
        })
      })
    const run = await me.start([{ tool: "low.keyed", timeoutMs: 200 }, { tool: "low.keyed" }])
    expect(await isEnded(me, run.runId)).toMatchObject({
      state: RunState.FAILED,
      reason: "tool_failed",
    })
    expect(isStopped).toBe(true)
    const calls = await me.callsOf(run.runId)
    const { FAILED, CANCELLED } = ToolCallState
    expect(calls.map(({ state }) => state)).toEqual([FAILED, CANCELLED])
    expect(calls[0]).toMatchObject({ reason: "deadline_exceeded" })
    expect((await me.get(run.runId)).plan?.steps[0]?.timeout).toMatchObject({ nanos: 200_000_000 })
  })

  it("lets whoever carries it out know how long there is", async () => {
    const me = inWorkspace(orchestrator)
    const heard: (number | undefined)[] = []
    const { execute } = peers.script
    peers.script.execute = (request, context) => {
      heard.push(context.timeoutMs())
      return execute(request, context)
    }
    const run = await me.start([{ tool: "low.keyed", timeoutMs: 2_000 }, { tool: "low.keyed" }])
    await isEnded(me, run.runId)
    const [own = 0, usual = 0] = heard
    expect(own).toBeGreaterThan(500)
    expect(own).toBeLessThanOrEqual(3_000)
    expect(usual).toBeGreaterThan(3_000)
  })

  it("is unknown where it is UNSAFE and does not say what became of it", async () => {
    const me = inWorkspace(orchestrator)
    const gate = Promise.withResolvers<void>()
    peers.script.execute = async () => {
      await gate.promise
      return {}
    }
    const run = await me.start([{ tool: "low.unsafe", timeoutMs: 200 }])
    await me.reaches(run.runId, RunState.REQUIRES_ACTION)
    const [call] = await me.callsOf(run.runId)
    expect(call?.state).toBe(ToolCallState.OUTCOME_UNKNOWN)
    gate.resolve()
  })

  it("goes on where it is quick enough, and does not shorten what follows", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.execute = async ({ stepIndex }) => {
      if (stepIndex === 1) await new Promise((resolve) => setTimeout(resolve, 400))
      return {}
    }
    const run = await me.start([{ tool: "low.keyed", timeoutMs: 30_000 }, { tool: "low.keyed" }])
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })

  it("has no more time where another replica takes it over", async () => {
    const me = inWorkspace(orchestrator)
    const sent: number[] = []
    peers.script.execute = async () => {
      sent.push(performance.now())
      await new Promise((resolve) => setTimeout(resolve, 60_000).unref())
      return {}
    }
    const run = await me.start([{ tool: "low.read", timeoutMs: 1_200 }])
    await until(() => sent.length === 1)
    await new Promise((resolve) => setTimeout(resolve, 600))
    await using worker = await connect(orchestrator.database.workerUrl)
    await worker.query(
      "update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now() where run_id = $1",
      [run.runId, newId()],
    )
    await isEnded(me, run.runId)
    const [call] = await me.callsOf(run.runId)
    expect(call).toMatchObject({ state: ToolCallState.FAILED, reason: "deadline_exceeded" })
    expect(call?.attempts).toBe(2)
  })
})

describe("the time of a call", () => {
  const clock = clockFrom(new Date(10_000))
  const startTime = new Date(5_000)

  it("is the run's own where the call has none", () => {
    const wanted = new Scope()
    using time = callTime(wanted, { timeoutMs: undefined, startTime }, clock)
    expect(time.scope).toBe(wanted)
    wanted.end("no longer wanted")
    expect(time.isOver()).toBe(false)
  })

  it("counts from when the call was admitted, by the clock of the database", async () => {
    using over = callTime(new Scope(), { timeoutMs: 5_000, startTime }, clock)
    using left = callTime(new Scope(), { timeoutMs: 60_000, startTime }, clock)
    await until(() => over.isOver(), { timeoutMs: 2_500 })
    expect(left.scope.isEnded).toBe(false)
  })

  it("ends with the run, which is not the same as being over", () => {
    const wanted = new Scope()
    using time = callTime(wanted, { timeoutMs: 60_000, startTime }, clock)
    wanted.end("no longer wanted")
    expect(time.scope.isEnded).toBe(true)
    expect(time.isOver()).toBe(false)
  })
})
