import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { OnError } from "../../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { type Run, RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { testRuntime, until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  type StepInit,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
let database: Database
const peers = createPeers()
const defaults = { ...peers.script }
const maxEvents = 60
const maxBytes = 6_000

beforeAll(async () => {
  orchestrator = await startOrchestrator({
    peers,
    limits: {
      events: { warnAt: 20, most: maxEvents },
      payloadBytes: { warnAt: 2_000, most: maxBytes },
      maxSteps: 20,
      maxArgumentBytes: 3_000,
    },
  })
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
  await orchestrator[Symbol.asyncDispose]()
})

const tool = "low.keyed"
const steps = (count: number): StepInit[] => Array.from({ length: count }, () => ({ tool }))
const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

function inLimits() {
  const me = inWorkspace(orchestrator)
  return {
    ...me,
    ended: (runId: string): Promise<Run> =>
      until(async () => {
        const run = await me.get(runId)
        return run.endTime !== undefined && run
      }),
    async warnings(runId: string) {
      return (await me.history(runId)).flatMap(({ kind }) =>
        kind.case === "budgetWarned" ? [kind.value] : [],
      )
    },
  }
}

describe("the length of a run's history", () => {
  it("ends the run before a further call, for a reason of its own, and keeps what was done", async () => {
    const me = inLimits()
    const { runId } = await me.start(steps(20))
    const ended = await me.ended(runId)
    expect(ended).toMatchObject({
      state: RunState.FAILED,
      reason: "event_limit_reached",
      limits: { maxEvents, maxPayloadBytes: BigInt(maxBytes) },
    })
    const calls = await me.callsOf(runId)
    const done = calls.filter(({ state }) => state === ToolCallState.SUCCEEDED)
    const denied = calls[done.length]
    expect(effectsOf(runId)).toHaveLength(done.length)
    expect(denied).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "event_limit_reached",
      outcome: { value: { metadata: { budget: "run_events", limit: String(maxEvents) } } },
    })
    const events = await me.history(runId)
    const lastBegun = events.findLast(
      ({ kind }) =>
        kind.case === "toolCallStateChanged" && kind.value.state === ToolCallState.EXECUTING,
    )
    expect(lastBegun?.sequence).toBeLessThan(BigInt(maxEvents + 5))
    expect(ended.usage?.events).toBe(events.length)
  })

  it("is warned of once, by the change that brings it there", async () => {
    const me = inLimits()
    const { runId } = await me.start(steps(6))
    await me.reaches(runId, RunState.SUCCEEDED)
    const [warning, ...others] = await me.warnings(runId)
    expect(others).toEqual([])
    expect(warning).toMatchObject({ budget: "run_events", limit: BigInt(maxEvents) })
    expect(Number(warning?.used)).toBeGreaterThanOrEqual(20)
    expect(Number(warning?.used)).toBeLessThan(30)
  })

  it("counts what people add, and warns of that", async () => {
    const me = inLimits()
    const { runId } = await me.start([{ tool }, { tool: "high.keyed" }, { tool }])
    const approval = await me.pendingApproval(runId)
    const before = await me.get(runId)
    expect(before.usage?.events).toBeLessThan(20)
    await me.decide(approval)
    await me.reaches(runId, RunState.SUCCEEDED)
    const events = await me.history(runId)
    expect((await me.get(runId)).usage?.events).toBe(events.length)
    expect(await me.warnings(runId)).toHaveLength(1)
  })
})

describe("the size of a run's arguments and results", () => {
  it("ends the run before a further call, and is exactly what is stored", async () => {
    const me = inLimits()
    peers.script.execute = ({ stepIndex }) => ({ text: "é".repeat(700), stepIndex })
    const { runId } = await me.start([
      { tool, arguments: { text: "ü".repeat(100) } },
      ...Array.from({ length: 8 }, (_, step) => ({
        tool,
        arguments: { number: { $from: step, path: "/stepIndex" } },
      })),
    ])
    const ended = await me.ended(runId)
    expect(ended).toMatchObject({ state: RunState.FAILED, reason: "payload_limit_reached" })
    const row = await database.tenant(me.workspaceId, (tx) =>
      tx.one<{ readonly bytes: number; readonly done: number }>(
        `select sum(octet_length(planned_arguments) + coalesce(octet_length(arguments), 0)
           + coalesce(octet_length(result), 0))::integer as bytes,
           count(result)::integer as done
         from tool_calls where run_id = $1`,
        [runId],
      ),
    )
    expect(ended.usage?.payloadBytes).toBe(BigInt(row.bytes))
    expect(row.bytes).toBeGreaterThanOrEqual(maxBytes)
    expect(row.bytes).toBeLessThan(maxBytes + 1_600)
    expect(effectsOf(runId)).toHaveLength(row.done)
    const calls = await me.callsOf(runId)
    expect(calls[row.done]).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "payload_limit_reached",
      outcome: { value: { metadata: { used: String(row.bytes), limit: String(maxBytes) } } },
    })
    const warned = (await me.warnings(runId)).filter(({ budget }) => budget === "run_payload_bytes")
    expect(warned).toHaveLength(1)
    expect(warned[0]?.used).toBeGreaterThanOrEqual(2_000n)
  })

  it("is warned of by the first change already where the plan is large", async () => {
    const me = inLimits()
    const large = { tool, arguments: { text: "x".repeat(1_500) } }
    const { runId, usage } = await me.start([large, large])
    expect(usage?.payloadBytes).toBe(2n * 1_511n)
    await me.reaches(runId, RunState.SUCCEEDED)
    expect(await me.warnings(runId)).toMatchObject([
      { budget: "run_payload_bytes", used: 2n * 1_511n, limit: BigInt(maxBytes) },
    ])
  })

  it("is told for a request that comes again as it was for the first", async () => {
    const me = inLimits()
    const request = {
      workspaceId: me.workspaceId,
      requestId: "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51",
      plan: { name: "again", steps: [{ tool, arguments: { text: "x".repeat(500) } }] },
    }
    const { run } = await orchestrator.runs.startRun(request, me.requester)
    await me.reaches(run?.runId ?? "", RunState.SUCCEEDED)
    const { run: again } = await orchestrator.runs.startRun(request, me.requester)
    expect(again?.usage).toEqual(run?.usage)
  })
})

describe("the size of one plan, argument or result", () => {
  const refusalOf = (started: Promise<unknown>) =>
    started.then(
      () => "started",
      (error: unknown) => ({ reason: reasonOf(error), ...metadataOf(error) }),
    )

  it("refuses what is too large before anything is stored", async () => {
    const me = inLimits()
    expect(await refusalOf(me.start(steps(21)))).toMatchObject({
      ...{ reason: "LIMIT_EXCEEDED", limit: "plan_steps", maximum: "20" },
    })
    const text = (size: number) => ({ tool, arguments: { text: "x".repeat(size) } })
    expect(await refusalOf(me.start([text(2_900), text(2_900), text(500)]))).toMatchObject({
      ...{ reason: "LIMIT_EXCEEDED", limit: "run_payload_bytes", maximum: String(maxBytes) },
    })
    expect(await refusalOf(me.start([text(3_000)]))).toMatchObject({
      reason: "INVALID_PLAN",
      cause: "larger than 3000 bytes",
    })
  })

  it("fails a call whose arguments grow too large by the results in them", async () => {
    const me = inLimits()
    peers.script.execute = () => ({ text: "x".repeat(1_600) })
    const half = { $from: 0, path: "/text" }
    const { runId } = await me.start([{ tool }, { tool, arguments: { a: half, b: half } }])
    expect(await me.ended(runId)).toMatchObject({
      state: RunState.FAILED,
      reason: "arguments_too_large",
    })
    const [, call] = await me.callsOf(runId)
    expect(call).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "arguments_too_large",
      outcome: { value: { metadata: { bytes: "3215", limit: "3000" } } },
    })
    expect(effectsOf(runId)).toHaveLength(1)
  })

  it("fails a run whose call gives more than is taken, also where its plan goes on from errors", async () => {
    const me = inLimits()
    peers.script.execute = () => ({
      error: { reason: "result_too_large", message: "", metadata: { applied: "true" } },
    })
    const [step] = steps(1)
    const { runId } = await me.start([{ tool, ...step, onError: OnError.CONTINUE }, { tool }])
    expect(await me.ended(runId)).toMatchObject({
      state: RunState.FAILED,
      reason: "result_too_large",
    })
    const calls = await me.callsOf(runId)
    expect(calls[0]).toMatchObject({ state: ToolCallState.FAILED, reason: "result_too_large" })
    expect(calls[1]?.state).toBe(ToolCallState.CANCELLED)
  })

  it("goes on from an error that a tool only names like that", async () => {
    const me = inLimits()
    peers.script.execute = ({ stepIndex }) =>
      stepIndex === 0 ? { error: { reason: "result_too_large", message: "", metadata: {} } } : {}
    const { runId } = await me.start([{ tool, onError: OnError.CONTINUE }, { tool }])
    await me.reaches(runId, RunState.SUCCEEDED)
  })
})
