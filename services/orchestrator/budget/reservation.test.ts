import { join } from "node:path"
import { create } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { type Run, RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolUsageSchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime, until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  type StepInit,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
let other: Orchestrator
let database: Database
const peers = createPeers()
const defaults = { ...peers.script }

beforeAll(async () => {
  // Nobody is taken for dead, however busy the machine is.
  const executor = { leaseMs: 30_000 }
  orchestrator = await startOrchestrator({ peers, executor })
  other = await startOrchestrator({ peers, executor, database: orchestrator.database })
  database = openDatabase(orchestrator.database, {
    runtime: testRuntime("orchestrator"),
    migrations: join(import.meta.dirname, "../migrations"),
  })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await other[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

const tool = "low.keyed"
const steps = (count: number): StepInit[] => Array.from({ length: count }, () => ({ tool }))
const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)
const usage = (inputTokens: bigint, outputTokens = 0n, costMicros = 0n) => ({
  ...{ inputTokens, outputTokens, costMicros },
})
const declaring =
  (tokens: bigint, costMicros = 0n) =>
  () => ({
    maxUsage: create(ToolUsageSchema, { inputTokens: tokens, costMicros }),
  })

function withBudget(from = orchestrator) {
  const me = inWorkspace(from)
  const { workspaceId } = me
  const admin = actingAs(memberSubject(workspaceId, newId(), Role.ADMIN))
  return {
    ...me,
    there: inWorkspace(other, workspaceId),
    set: (limits: object) =>
      from.budgets.setBudget({ workspaceId, requestId: newId(), ...limits }, admin),
    async budget() {
      const { budget } = await from.budgets.getBudget({ workspaceId }, admin)
      if (budget === undefined) throw new Error("no budget")
      return budget
    },
    ended: (runId: string): Promise<Run> =>
      until(
        async () => {
          const run = await me.get(runId)
          return run.endTime !== undefined && run
        },
        { timeoutMs: 20_000 },
      ),
  }
}

describe("what a tool declares to use up at most", () => {
  it("is held for the day: of fifty calls at once, at two replicas, ten are made that keep their word", async () => {
    const me = withBudget()
    peers.script.declared = declaring(100n, 7n)
    peers.script.usage = () => usage(60n, 40n, 7n)
    const gate = Promise.withResolvers<void>()
    peers.script.execute = async () => {
      await gate.promise
      return {}
    }
    await me.set({ maxDailyTokens: 1_000n, maxDailyCostMicros: 1_000n })
    const runs = await Promise.all(
      Array.from({ length: 50 }, (_, index) => (index % 2 === 0 ? me : me.there).start(steps(1))),
    )
    await until(async () => (await me.budget()).dailyToolCalls === 10)
    await until(async () => {
      const request = { workspaceId: me.workspaceId, states: [RunState.FAILED], pageSize: 100 }
      return (await orchestrator.runs.listRuns(request, me.requester)).runs.length === 40
    })
    expect(await me.budget()).toMatchObject({
      ...{ dailyTokens: 0n, dailyReservedTokens: 1_000n, dailyReservedCostMicros: 70n },
    })
    gate.resolve()
    const ended = await Promise.all(runs.map(({ runId }) => me.ended(runId)))
    expect(ended.filter(({ state }) => state === RunState.SUCCEEDED)).toHaveLength(10)
    expect(runs.flatMap(({ runId }) => effectsOf(runId))).toHaveLength(10)
    const failed = ended.find(({ state }) => state === RunState.FAILED)
    const [call] = await me.callsOf(failed?.runId ?? "")
    expect(call).toMatchObject({ state: ToolCallState.DENIED, reason: "budget_exhausted" })
    expect(call?.outcome.value).toMatchObject({
      metadata: { budget: "workspace_daily_tokens", used: "1000", limit: "1000" },
    })
    expect(await me.budget()).toMatchObject({
      ...{ dailyToolCalls: 10, dailyTokens: 1_000n, dailyCostMicros: 70n },
      ...{ dailyReservedTokens: 0n, dailyReservedCostMicros: 0n },
    })
  })

  it("is given back where less was used, so that more fits, and never too much", async () => {
    const me = withBudget()
    peers.script.declared = declaring(100n)
    peers.script.usage = ({ stepIndex }) => usage(BigInt(30 + stepIndex))
    await me.set({ maxDailyTokens: 1_000n })
    const runs = await Promise.all(Array.from({ length: 9 }, () => me.start(steps(4))))
    await Promise.all(runs.map(({ runId }) => me.ended(runId)))
    const made = runs.flatMap(({ runId }) => effectsOf(runId))
    const used = made.reduce((sum, { stepIndex }) => sum + 30 + stepIndex, 0)
    const budget = await me.budget()
    expect(budget.dailyTokens).toBe(BigInt(used))
    expect(used).toBeLessThanOrEqual(1_000)
    expect(made.length).toBeGreaterThan(10)
    expect(budget.dailyReservedTokens).toBe(0n)
  })

  it("stays held while it is not known what became of the call", async () => {
    const me = withBudget()
    peers.script.declared = declaring(400n)
    peers.script.execute = () => new Promise(() => {})
    await me.set({ maxDailyTokens: 1_000n })
    const { runId } = await me.start([{ tool: "low.unsafe", timeoutMs: 200 }])
    await me.reaches(runId, RunState.REQUIRES_ACTION)
    expect(await me.budget()).toMatchObject({ dailyTokens: 0n, dailyReservedTokens: 400n })
    const [call] = await me.callsOf(runId)
    await orchestrator.toolCalls.settleToolCall(
      {
        ...{ workspaceId: me.workspaceId, toolCallId: call?.toolCallId ?? "", requestId: newId() },
        outcome: { case: "result", value: {} },
      },
      me.approver,
    )
    await me.reaches(runId, RunState.SUCCEEDED)
    expect(await me.budget()).toMatchObject({ dailyTokens: 0n, dailyReservedTokens: 0n })
  })

  it("is given back once by a call that fails, is cancelled, or is sent again", async () => {
    const me = withBudget()
    peers.script.declared = declaring(400n)
    await me.set({ maxDailyTokens: 1_000n })
    peers.script.execute = () => ({ error: { reason: "no", message: "", metadata: {} } })
    await me.ended((await me.start(steps(1))).runId)
    expect(await me.budget()).toMatchObject({ dailyReservedTokens: 0n })
    peers.script.execute = () => new Promise(() => {})
    const { runId } = await me.start([{ tool: "low.read" }])
    await until(async () => (await me.budget()).dailyReservedTokens === 400n)
    await me.cancel(runId)
    await me.reaches(runId, RunState.CANCELLED)
    expect(await me.budget()).toMatchObject({ dailyReservedTokens: 0n })
  })

  it("is not taken from others where it was admitted before there was a budget", async () => {
    const me = withBudget()
    peers.script.declared = declaring(100n)
    peers.script.usage = () => usage(100n)
    const gate = Promise.withResolvers<void>()
    peers.script.execute = async ({ stepIndex, runId }) => {
      if (stepIndex === 0 && runId === first.runId) await gate.promise
      else await second.promise
      return {}
    }
    const second = Promise.withResolvers<void>()
    const first: Run = await me.start(steps(1))
    await until(async () => (await me.callsOf(first.runId))[0]?.state === ToolCallState.EXECUTING)
    await me.set({ maxDailyTokens: 1_000n })
    const counted = await me.start(steps(1))
    await until(async () => (await me.budget()).dailyReservedTokens === 100n)
    gate.resolve()
    await me.ended(first.runId)
    expect(await me.budget()).toMatchObject({ dailyTokens: 100n, dailyReservedTokens: 100n })
    second.resolve()
    await me.ended(counted.runId)
    expect(await me.budget()).toMatchObject({ dailyTokens: 200n, dailyReservedTokens: 0n })
  })

  it("is given back to the day on which it was held, and used on the day on which it ends", async () => {
    const me = withBudget()
    const { workspaceId } = me
    peers.script.declared = declaring(100n)
    peers.script.usage = () => usage(80n)
    const gate = Promise.withResolvers<void>()
    peers.script.execute = async () => {
      await gate.promise
      return {}
    }
    await me.set({ maxDailyTokens: 1_000n })
    const { runId } = await me.start(steps(1))
    await until(async () => (await me.budget()).dailyReservedTokens === 100n)
    await database.worker([workspaceId], async (tx) => {
      await tx.query("update workspace_usage set day = day - 1, reserved_tokens = 130")
      await tx.query("update tool_calls set start_time = start_time - interval '1 day'")
    })
    await database.tenant(workspaceId, (tx) =>
      tx.query("update workspace_budgets set count_time = count_time - interval '2 days'"),
    )
    gate.resolve()
    await me.ended(runId)
    expect(await me.budget()).toMatchObject({ dailyTokens: 80n, dailyReservedTokens: 0n })
    const days = await database.tenant(workspaceId, (tx) =>
      tx.query("select tokens, reserved_tokens as held from workspace_usage order by day"),
    )
    expect(days).toEqual([
      { tokens: 0, held: 30 },
      { tokens: 80, held: 0 },
    ])
  })

  it("must be left in the budget of the run", async () => {
    const me = withBudget()
    peers.script.declared = declaring(100n, 10n)
    peers.script.usage = () => usage(50n, 20n, 10n)
    const run = await me.start(steps(9), { budget: { maxTokens: 300n } })
    expect(await me.ended(run.runId)).toMatchObject({
      reason: "budget_exhausted",
      usage: { inputTokens: 150n, outputTokens: 60n },
    })
    expect((await me.callsOf(run.runId))[3]?.outcome.value).toMatchObject({
      metadata: { budget: "run_tokens", used: "210", limit: "300" },
    })
    const exact = await me.start(steps(9), { budget: { maxCostMicros: 30n } })
    expect(await me.ended(exact.runId)).toMatchObject({ usage: { costMicros: 30n } })
  })
})

describe("the time that a tool declares", () => {
  it("is that of a call whose step does not say", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.declared = () => ({ defaultTimeout: durationFromMs(250) })
    peers.script.execute = () => new Promise(() => {})
    const run = await me.start([{ tool: "low.read" }], { timeout: durationFromMs(60_000) })
    await me.reaches(run.runId, RunState.FAILED)
    expect((await me.callsOf(run.runId))[0]).toMatchObject({
      reason: "deadline_exceeded",
      timeout: durationFromMs(250),
    })
  })

  it("gives way to the step's, and to the run's deadline", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.declared = () => ({ defaultTimeout: durationFromMs(200) })
    peers.script.execute = async () => {
      await new Promise((resolve) => setTimeout(resolve, 500))
      return {}
    }
    const long = await me.start([{ tool: "low.read", timeoutMs: 30_000 }])
    await me.reaches(long.runId, RunState.SUCCEEDED)
    peers.script.declared = () => ({ defaultTimeout: durationFromMs(60_000) })
    peers.script.execute = () => new Promise(() => {})
    const late = await me.start([{ tool: "low.read" }], { timeout: durationFromMs(400) })
    await me.reaches(late.runId, RunState.EXPIRED)
  })
})
