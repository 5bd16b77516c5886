import fc from "fast-check"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import {
  createPeers,
  type Orchestrator,
  type StepInit,
  startOrchestrator,
} from "../orchestrator-harness.ts"
import { exhaustionOf, warningsOf } from "./budget.ts"
import { inBudget } from "./budget-harness.ts"

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

const steps = (count: number): StepInit[] => Array.from({ length: count }, () => ({ tool }))
const tool = "low.keyed"
const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

const withBudget = () => inBudget(orchestrator)

describe("the budget of a run", () => {
  it("ends it before the call that has no room, and keeps what was done", async () => {
    const me = withBudget()
    const run = await me.start(steps(4), { budget: { maxToolCalls: 2 } })
    const ended = await me.ended(run.runId)
    expect(ended).toMatchObject({
      state: RunState.FAILED,
      reason: "budget_exhausted",
      budget: { maxToolCalls: 2 },
      usage: { toolCalls: 2 },
    })
    const calls = await me.callsOf(run.runId)
    const { SUCCEEDED, DENIED, CANCELLED } = ToolCallState
    expect(calls.map(({ state }) => state)).toEqual([SUCCEEDED, SUCCEEDED, DENIED, CANCELLED])
    expect(calls[2]).toMatchObject({ reason: "budget_exhausted" })
    expect(calls[2]?.outcome.value).toMatchObject({
      reason: "budget_exhausted",
      metadata: { budget: "run_tool_calls", used: "2", limit: "2" },
    })
    expect(effectsOf(run.runId)).toHaveLength(2)
    expect(
      peers.judged.filter(({ runId, stepIndex }) => runId === run.runId && stepIndex === 2),
    ).toEqual([])
  })

  it("ends it before the step that it has no room for", async () => {
    const me = withBudget()
    const run = await me.start(steps(6), { budget: { maxSteps: 5 } })
    expect(await me.ended(run.runId)).toMatchObject({
      reason: "budget_exhausted",
      budget: { maxSteps: 5 },
      stepIndex: 5,
    })
    expect((await me.callsOf(run.runId))[5]?.outcome.value).toMatchObject({
      metadata: { budget: "run_steps", used: "5", limit: "5" },
    })
    expect(effectsOf(run.runId)).toHaveLength(5)
    const warned = (await me.history(run.runId)).flatMap(({ kind }) =>
      kind.case === "budgetWarned" ? [kind.value] : [],
    )
    expect(warned).toEqual([expect.objectContaining({ budget: "run_steps", used: 4n, limit: 5n })])
  })

  it("is not touched by a run that fits exactly, and warns once at four fifths", async () => {
    const me = withBudget()
    const run = await me.start(steps(5), { budget: { maxToolCalls: 5 } })
    expect(await me.ended(run.runId)).toMatchObject({ state: RunState.SUCCEEDED })
    const warned = (await me.history(run.runId)).flatMap(({ kind }) =>
      kind.case === "budgetWarned" ? [kind.value] : [],
    )
    expect(warned).toEqual([
      expect.objectContaining({ budget: "run_tool_calls", used: 4n, limit: 5n }),
    ])
  })

  it("ends it where its time is up, also while it waited for a person", async () => {
    const me = withBudget()
    const run = await me.start([{ tool }, { tool: "high.keyed" }], {
      budget: { maxWallTime: { nanos: 400_000_000 } },
    })
    const approval = await me.pendingApproval(run.runId)
    await new Promise((resolve) => setTimeout(resolve, 450))
    await me.decide(approval)
    expect(await me.ended(run.runId)).toMatchObject({
      state: RunState.FAILED,
      reason: "budget_exhausted",
    })
    const [, call] = await me.callsOf(run.runId)
    expect(call).toMatchObject({ state: ToolCallState.DENIED, reason: "budget_exhausted" })
    expect(call?.outcome.value).toMatchObject({
      metadata: { budget: "run_wall_time", limit: "400" },
    })
    expect(effectsOf(run.runId)).toHaveLength(1)
  })

  it("warns once of the time, however many calls follow", async () => {
    const me = withBudget()
    peers.script.execute = async ({ stepIndex }) => {
      if (stepIndex === 0) await new Promise((resolve) => setTimeout(resolve, 2_500))
      return {}
    }
    const run = await me.start(steps(4), { budget: { maxWallTime: { seconds: 3n } } })
    await me.ended(run.runId)
    const warned = (await me.history(run.runId)).flatMap(({ kind }) =>
      kind.case === "budgetWarned" ? [kind.value.budget] : [],
    )
    expect(warned).toEqual(["run_wall_time"])
  })

  it("counts a call once that another replica sends again", async () => {
    const me = withBudget()
    const gate = Promise.withResolvers<void>()
    const sent: number[] = []
    peers.script.execute = async ({ stepIndex }) => {
      sent.push(stepIndex)
      if (stepIndex === 0 && sent.length === 1) await gate.promise
      return {}
    }
    const run = await me.start(steps(2), { budget: { maxToolCalls: 2 } })
    await until(() => sent.length === 1)
    await using worker = await connect(orchestrator.database.workerUrl)
    await worker.query(
      "update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now() where run_id = $1",
      [run.runId, newId()],
    )
    await until(async () => (await me.callsOf(run.runId))[0]?.attempts === 2)
    gate.resolve()
    expect(await me.ended(run.runId)).toMatchObject({
      state: RunState.SUCCEEDED,
      usage: { toolCalls: 2 },
    })
  })
})

describe("tokens and cost, as tools report them", () => {
  const usage = { inputTokens: 300n, outputTokens: 100n, costMicros: 50n }

  it("are counted, and shown with the run", async () => {
    const me = withBudget()
    peers.script.usage = ({ stepIndex }) => (stepIndex === 1 ? undefined : usage)
    const run = await me.start(steps(3))
    expect(await me.ended(run.runId)).toMatchObject({
      state: RunState.SUCCEEDED,
      usage: { toolCalls: 3, inputTokens: 600n, outputTokens: 200n, costMicros: 100n },
    })
  })

  it.each([
    ["run_tokens", { maxTokens: 500n }, "800", "500"],
    ["run_cost_micros", { maxCostMicros: 100n }, "100", "100"],
  ])(
    "end the run by %s after the call that reaches the limit",
    async (name, budget, used, limit) => {
      const me = withBudget()
      peers.script.usage = () => usage
      const run = await me.start(steps(5), { budget })
      expect(await me.ended(run.runId)).toMatchObject({ reason: "budget_exhausted", budget })
      expect(effectsOf(run.runId)).toHaveLength(2)
      const calls = await me.callsOf(run.runId)
      expect(calls[2]?.outcome.value).toMatchObject({ metadata: { budget: name, used, limit } })
      const warned = (await me.history(run.runId)).flatMap(({ kind }) =>
        kind.case === "budgetWarned" ? [kind.value.budget] : [],
      )
      expect(warned).toEqual([name])
    },
  )

  it("are counted once where the call is sent again, and where the tool failed", async () => {
    const me = withBudget()
    peers.script.usage = () => usage
    const gate = Promise.withResolvers<void>()
    let sent = 0
    peers.script.execute = async ({ stepIndex }) => {
      if (stepIndex === 1) return { error: { reason: "no", message: "" } }
      sent += 1
      if (sent === 1) await gate.promise
      return {}
    }
    const run = await me.start(steps(2))
    await until(() => sent === 1)
    await using worker = await connect(orchestrator.database.workerUrl)
    await worker.query(
      "update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now() where run_id = $1",
      [run.runId, newId()],
    )
    await until(async () => (await me.callsOf(run.runId))[0]?.attempts === 2)
    gate.resolve()
    expect(await me.ended(run.runId)).toMatchObject({
      state: RunState.FAILED,
      usage: { toolCalls: 2, inputTokens: 600n, costMicros: 100n },
    })
  })

  it("of a day are shared by all runs of the workspace, and passed by one step each at most", async () => {
    const me = withBudget()
    peers.script.usage = () => usage
    await me.set(0, "", { maxDailyTokens: 1_000n })
    const first = await me.start(steps(2))
    expect(await me.ended(first.runId)).toMatchObject({ state: RunState.SUCCEEDED })
    const second = await me.start(steps(4))
    expect(await me.ended(second.runId)).toMatchObject({ reason: "budget_exhausted" })
    expect(effectsOf(second.runId)).toHaveLength(1)
    const calls = await me.callsOf(second.runId)
    expect(calls[1]?.outcome.value).toMatchObject({
      metadata: { budget: "workspace_daily_tokens", used: "1200", limit: "1000" },
    })
    const third = await me.start(steps(1))
    expect(await me.ended(third.runId)).toMatchObject({ reason: "budget_exhausted" })
    expect(await me.budget()).toMatchObject({
      ...{ dailyToolCalls: 3, dailyTokens: 1_200n, dailyCostMicros: 150n },
      maxDailyTokens: 1_000n,
    })
  })
})

describe("what a budget says", () => {
  const amount = fc.integer({ min: 1, max: 50 })
  const unused = { tokens: 0, costMicros: 0, steps: 0 }

  it("admits exactly as many calls as it has room for, and warns exactly once of each", () => {
    const check = fc.property(amount, amount, fc.array(amount), (maxCalls, maxWallMs, waits) => {
      const budget = { maxCalls, maxWallMs }
      let calls = 0
      let wallMs = 0
      let lastMs = 0
      const warned: string[] = []
      for (const wait of waits) {
        wallMs += wait
        if (exhaustionOf(budget, { ...unused, calls, wallMs }) !== undefined) {
          expect(calls === maxCalls || wallMs >= maxWallMs).toBe(true)
          break
        }
        expect(calls < maxCalls && wallMs < maxWallMs).toBe(true)
        const before = { ...unused, calls, wallMs: lastMs }
        const now = { ...unused, calls: ++calls, wallMs }
        warned.push(...warningsOf(budget, before, now).map((meter) => meter.budget))
        lastMs = wallMs
      }
      expect(warned).toHaveLength(new Set(warned).size)
      expect(warned.includes("run_tool_calls")).toBe(calls * 5 >= maxCalls * 4)
      expect(warned.includes("run_wall_time")).toBe(calls > 0 && lastMs * 5 >= maxWallMs * 4)
    })
    fc.assert(check, { seed: 20_261_122, numRuns: 1_000 })
  })
})
