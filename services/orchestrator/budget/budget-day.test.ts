import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  type StepInit,
  startOrchestrator,
} from "../orchestrator-harness.ts"
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

describe("the budget of a workspace's day", () => {
  it("admits ten of fifty calls that ask at once, and tells the others when it is renewed", async () => {
    const me = withBudget()
    await me.set(10)
    const runs = await Promise.all(Array.from({ length: 50 }, () => me.start(steps(1))))
    const ended = await Promise.all(runs.map(({ runId }) => me.ended(runId)))
    const states = ended.map(({ state }) => state)
    expect(states.filter((state) => state === RunState.SUCCEEDED)).toHaveLength(10)
    const failed = ended.filter(({ state }) => state === RunState.FAILED)
    expect(failed).toHaveLength(40)
    expect(new Set(failed.map(({ reason }) => reason))).toEqual(new Set(["budget_exhausted"]))
    expect(runs.flatMap(({ runId }) => effectsOf(runId))).toHaveLength(10)
    const [call] = await me.callsOf(failed[0]?.runId ?? "")
    const midnight = new Date()
    midnight.setUTCHours(24, 0, 0, 0)
    expect(call?.outcome.value).toMatchObject({
      metadata: {
        ...{ budget: "workspace_daily_tool_calls", used: "10", limit: "10" },
        reset_time: midnight.toISOString(),
      },
    })
    const budget = await me.budget()
    expect(budget).toMatchObject({ maxDailyToolCalls: 10, dailyToolCalls: 10 })
    expect(budget?.warnTime).toBeDefined()
  })

  it("holds across the steps of runs, keeps the outcomes, and is nobody else's", async () => {
    const me = withBudget()
    const other = withBudget()
    await me.set(3)
    const first = await me.start(steps(2))
    expect(await me.ended(first.runId)).toMatchObject({ state: RunState.SUCCEEDED })
    const second = await me.start(steps(3))
    expect(await me.ended(second.runId)).toMatchObject({ reason: "budget_exhausted" })
    const { SUCCEEDED, DENIED, CANCELLED } = ToolCallState
    const calls = await me.callsOf(second.runId)
    expect(calls.map(({ state }) => state)).toEqual([SUCCEEDED, DENIED, CANCELLED])
    const elsewhere = await other.start(steps(3))
    expect(await other.ended(elsewhere.runId)).toMatchObject({ state: RunState.SUCCEEDED })
  })

  it("that is raised lets calls through again, and one of 0 counts nothing", async () => {
    const me = withBudget()
    await me.set(1)
    expect(await me.ended((await me.start(steps(2))).runId)).toMatchObject({
      reason: "budget_exhausted",
    })
    await me.set(4)
    expect(await me.ended((await me.start(steps(3))).runId)).toMatchObject({
      state: RunState.SUCCEEDED,
    })
    const free = await me.set(0)
    expect(await me.ended((await me.start(steps(3))).runId)).toMatchObject({
      state: RunState.SUCCEEDED,
    })
    expect(await me.budget()).toMatchObject({ dailyToolCalls: 4, etag: free?.etag })
  })

  it("denies a call that people have approved, where the last place is taken meanwhile", async () => {
    const me = withBudget()
    await me.set(1)
    const waiting = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(waiting.runId)
    const quick = await me.start(steps(1))
    expect(await me.ended(quick.runId)).toMatchObject({ state: RunState.SUCCEEDED })
    await me.decide(approval)
    expect(await me.ended(waiting.runId)).toMatchObject({ reason: "budget_exhausted" })
    expect(effectsOf(waiting.runId)).toEqual([])
  })

  it("is set by admins, under its etag where one is given", async () => {
    const me = withBudget()
    const { workspaceId, requester } = me
    expect(await me.budget()).toMatchObject({ maxDailyToolCalls: 0, dailyToolCalls: 0, etag: "b0" })
    const set = await me.set(5, "b0")
    expect(set).toMatchObject({ maxDailyToolCalls: 5, etag: "b1" })
    const stale = await me.set(6, "b0").catch((error) => error)
    expect(reasonOf(stale)).toBe("ETAG_MISMATCH")
    const request = { workspaceId, requestId: newId(), maxDailyToolCalls: 9 }
    const denied = await orchestrator.budgets.setBudget(request, requester).catch((error) => error)
    expect(reasonOf(denied)).toBe("ROLE_TOO_LOW")
  })
})

describe("telemetry", () => {
  it("is told of every call's use once, and of every warning", async () => {
    const me = withBudget()
    peers.script.usage = ({ stepIndex }) => ({ inputTokens: BigInt(stepIndex), costMicros: 2n })
    const run = await me.start(steps(5), { budget: { maxToolCalls: 5 } })
    const { usage } = await me.ended(run.runId)
    const told = await until(() => {
      const events = peers.events.filter(({ runId }) => runId === run.runId)
      const isOver = events.some(
        ({ payload }) => payload.case === "runChanged" && payload.value.state === "succeeded",
      )
      return isOver && events
    })
    const sum = { inputTokens: 0n, outputTokens: 0n, costMicros: 0n }
    for (const { payload } of told) {
      if (payload.case !== "toolCallChanged") continue
      sum.inputTokens += payload.value.inputTokens
      sum.outputTokens += payload.value.outputTokens
      sum.costMicros += payload.value.costMicros
    }
    expect(sum).toEqual({ inputTokens: 10n, outputTokens: 0n, costMicros: 10n })
    expect(usage).toMatchObject(sum)
    const warned = told.filter(({ payload }) => payload.case === "budgetWarned")
    expect(warned.map(({ payload }) => payload.value)).toMatchObject([
      { budget: "run_tool_calls", used: 4n, limit: 5n },
    ])
  })
})

describe("telemetry of a workspace's day", () => {
  it("is warned once, however many calls and replicas follow", async () => {
    const me = withBudget()
    await using other = await startOrchestrator({ peers, database: orchestrator.database })
    peers.script.usage = () => ({ inputTokens: 100n })
    await me.set(100, "", { maxDailyTokens: 999n })
    const warnings = () =>
      peers.events.filter(
        ({ payload, runId }) =>
          runId === "" && payload.case === "budgetWarned" && payload.value.limit === 999n,
      )
    await me.ended((await me.start(steps(7))).runId)
    const there = inWorkspace(other, me.workspaceId)
    const told = (runId: string) => () =>
      peers.events.some(
        (event) =>
          event.runId === runId &&
          event.payload.case === "runChanged" &&
          event.payload.value.state === "succeeded",
      )
    const before = await there.start(steps(1))
    await until(told(before.runId))
    expect(warnings()).toMatchObject([
      { payload: { value: { budget: "workspace_daily_tokens", used: 800n, limit: 999n } } },
    ])
    const after = await me.start(steps(1))
    await until(told(after.runId))
    expect(warnings()).toHaveLength(1)
  })
})
