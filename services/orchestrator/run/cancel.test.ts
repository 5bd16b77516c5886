import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { ApprovalState } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { metadataOf, RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import {
  createPeers,
  decisionFor,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

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

const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

describe("CancelRun", () => {
  it("while a call is being moderated: nothing is executed", async () => {
    const me = inWorkspace(orchestrator)
    const asked = Promise.withResolvers<void>()
    const answer = Promise.withResolvers<void>()
    peers.script.moderate = async (request) => {
      asked.resolve()
      await answer.promise
      return { decision: decisionFor(request, 1) }
    }
    const run = await me.start([{ tool: "low.keyed" }])
    await asked.promise
    const { run: cancelled } = await me.cancel(run.runId)
    expect(cancelled).toMatchObject({ state: RunState.CANCELLED, reason: "cancelled" })
    answer.resolve()
    expect((await me.callsOf(run.runId))[0]?.state).toBe(ToolCallState.CANCELLED)
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(effectsOf(run.runId)).toEqual([])
    expect((await me.get(run.runId)).state).toBe(RunState.CANCELLED)
  })

  it("while it waits for an approval: the approval is withdrawn", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }, { tool: "low.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    await me.cancel(run.runId)
    const { workspaceId, requester } = me
    const { approvalId } = approval
    const after = await orchestrator.approvals.getApproval({ workspaceId, approvalId }, requester)
    expect(after.approval?.state).toBe(ApprovalState.CANCELLED)
    const error = await me.decide(approval).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("APPROVAL_NOT_PENDING")
    expect((await me.callsOf(run.runId)).map(({ state }) => state)).toEqual([
      ToolCallState.CANCELLED,
      ToolCallState.CANCELLED,
    ])
  })

  it("while a call executes: its signal aborts, and the run is cancelling until it ends", async () => {
    const me = inWorkspace(orchestrator)
    const begun = Promise.withResolvers<void>()
    const aborted = Promise.withResolvers<void>()
    const release = Promise.withResolvers<void>()
    peers.script.execute = async (_, { signal }) => {
      signal.addEventListener("abort", () => aborted.resolve(), { once: true })
      begun.resolve()
      await release.promise
      return { late: true }
    }
    const run = await me.start([{ tool: "low.keyed" }, { tool: "low.keyed" }])
    await begun.promise
    const { run: cancelling } = await me.cancel(run.runId)
    expect(cancelling?.state).toBe(RunState.CANCELLING)
    await aborted.promise
    expect((await me.cancel(run.runId)).run?.state).toBe(RunState.CANCELLING)
    release.resolve()
    await me.reaches(run.runId, RunState.CANCELLED)
    expect((await me.callsOf(run.runId)).map(({ state }) => state)).toEqual([
      ToolCallState.SUCCEEDED,
      ToolCallState.CANCELLED,
    ])
    expect(effectsOf(run.runId)).toHaveLength(1)
  })

  it("while a call hangs: the call ends unknown, or failed where it only reads", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.execute = () => new Promise(() => {})
    for (const [tool, state] of [
      ["low.unsafe", ToolCallState.OUTCOME_UNKNOWN],
      ["low.read", ToolCallState.FAILED],
    ] as const) {
      const run = await me.start([{ tool }])
      await until(async () => (await me.callsOf(run.runId))[0]?.state === ToolCallState.EXECUTING)
      await me.cancel(run.runId)
      await me.reaches(run.runId, RunState.CANCELLED)
      expect((await me.callsOf(run.runId))[0]?.state).toBe(state)
    }
  })

  it("reaches a call that executes at another replica", async () => {
    await using other = await startOrchestrator({ peers, database: orchestrator.database })
    const me = inWorkspace(orchestrator)
    peers.script.execute = (_, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener("abort", () => reject(new RunwardenError("CANCELLED")))
      })
    const run = await me.start([{ tool: "low.keyed" }])
    await until(async () => (await me.callsOf(run.runId))[0]?.state === ToolCallState.EXECUTING)
    const { workspaceId, requester } = me
    const request = { workspaceId, runId: run.runId, requestId: newId() }
    await other.runs.cancelRun(request, requester)
    await me.reaches(run.runId, RunState.CANCELLED)
    expect((await me.callsOf(run.runId))[0]).toMatchObject({
      state: ToolCallState.FAILED,
      reason: "cancelled",
    })
  })

  it("of a run that has ended names its state; a stale etag changes nothing", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }])
    await me.reaches(run.runId, RunState.SUCCEEDED)
    const error = await me.cancel(run.runId).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toMatchObject({ current: "succeeded", requested: "cancelled" })
    const waiting = await me.start([{ tool: "high.keyed" }])
    await me.pendingApproval(waiting.runId)
    const { workspaceId, requester } = me
    const request = { workspaceId, runId: waiting.runId, requestId: newId(), etag: "r0" }
    const stale = await orchestrator.runs.cancelRun(request, requester).catch((e: unknown) => e)
    expect(reasonOf(stale)).toBe("ETAG_MISMATCH")
    expect((await me.get(waiting.runId)).state).toBe(RunState.REQUIRES_ACTION)
    await me.cancel(waiting.runId)
  })

  it("races 60 runs that are under way: no effect starts after the answer", {
    timeout: 60_000,
  }, async () => {
    const me = inWorkspace(orchestrator)
    const started = new Map<string, number>()
    const answered = new Map<string, number>()
    peers.script.execute = async ({ runId, stepIndex }) => {
      started.set(`${runId}/${stepIndex}`, performance.now())
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 30))
      return {}
    }
    const steps = Array.from({ length: 4 }, () => ({ tool: "low.keyed" }))
    const races = Array.from({ length: 60 }, async (_, n) => {
      await new Promise((resolve) => setTimeout(resolve, n * 10))
      const run = await me.start(steps)
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 60))
      const won = await me.cancel(run.runId).then(
        () => true,
        () => false,
      )
      if (won) answered.set(run.runId, performance.now())
      const ended = await until(
        async () => {
          await new Promise((resolve) => setTimeout(resolve, 100))
          const found = await me.get(run.runId)
          return found.endTime !== undefined && found
        },
        { timeoutMs: 30_000 },
      )
      expect(ended.state).toBe(won ? RunState.CANCELLED : RunState.SUCCEEDED)
    })
    await Promise.all(races)
    expect(answered.size).toBeGreaterThan(5)
    for (const [key, at] of started) {
      const end = answered.get(key.split("/")[0] ?? "")
      if (end !== undefined) expect(at).toBeLessThan(end)
    }
  })
})
