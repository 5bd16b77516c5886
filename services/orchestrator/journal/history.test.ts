/**
 * Whatever happens to runs, their histories are paths through the transition tables that end where
 * the rows stand; telemetry hears of every end and every verdict once, in order; and what has not
 * ended has a place in the claim table that will make it due. The journals of it all are whole.
 */
import fc from "fast-check"
import { afterAll, beforeAll, expect, it } from "vitest"
import { Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import { Answer } from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { OnError } from "../../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import type { RunEvent } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { approvalEvents, transitionApproval } from "../approval/approval.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"
import { isTerminalRun, nextRunStates } from "../run/run.ts"
import { nextToolCallStates } from "../run/tool-call.ts"
import { approvalStateEnum, runStateEnum, toolCallStateEnum, wordOf } from "../state-enum.ts"

const tools = ["low.read", "low.keyed", "low.unsafe", "high.keyed"] as const
const step = fc.record({
  tool: fc.constantFrom(...tools),
  verdict: fc.constantFrom(Verdict.ALLOWED, Verdict.ALLOWED, Verdict.FLAGGED, Verdict.BLOCKED),
  does: fc.constantFrom("result", "result", "error", "away once"),
  onError: fc.constantFrom(OnError.STOP, OnError.CONTINUE),
})
const scenario = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 4 }),
  answer: fc.constantFrom(Answer.APPROVE, Answer.APPROVE, Answer.REJECT, undefined),
  cancelAfterMs: fc.option(fc.integer({ min: 0, max: 150 }), { nil: undefined }),
  vanishAfterMs: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined }),
})
type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never

const peers = createPeers()
const scenarios = new Map<string, Scenario>()
const away = new Set<string>()
let orchestrator: Orchestrator

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
  const stepOf = (requester: string, index: number) => scenarios.get(requester)?.steps[index]
  peers.script.verdict = ({ workspaceId, stepIndex = 0 }) =>
    stepOf(workspaceId, stepIndex)?.verdict ?? Verdict.ALLOWED
  peers.script.execute = ({ workspaceId, stepIndex }) => {
    const does = stepOf(workspaceId, stepIndex)?.does
    const key = `${workspaceId}/${stepIndex}`
    if (does === "away once" && !away.has(key)) {
      away.add(key)
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "test" })
    }
    return does === "error" ? { error: { reason: "no", message: "", metadata: {} } } : {}
  }
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

it("40 runs of every kind leave exact histories behind", { timeout: 60_000 }, async () => {
  const all = fc.sample(scenario, { seed: 20_261_122, numRuns: 40 })
  const ended = await Promise.all(all.map(perform))
  // The scenarios reach what they are meant to reach.
  const states = new Set(ended.map(({ state }) => state))
  for (const state of ["SUCCEEDED", "FAILED", "CANCELLED", "REQUIRES_ACTION"] as const) {
    expect(states).toContain(RunState[state])
  }
})

async function perform(given: Scenario) {
  const me = inWorkspace(orchestrator)
  scenarios.set(me.workspaceId, given)
  const { runId } = await me.start(given.steps)
  const acts = [
    given.cancelAfterMs === undefined
      ? undefined
      : sleep(given.cancelAfterMs).then(() => me.cancel(runId).catch(() => {})),
    given.vanishAfterMs === undefined
      ? undefined
      : sleep(given.vanishAfterMs).then(() => vanish(runId)),
  ]
  await Promise.all(acts)
  const settled = await until(
    async () => {
      const run = await me.get(runId)
      if (run.endTime !== undefined) return run
      if (run.state !== RunState.REQUIRES_ACTION) return undefined
      if (given.answer === undefined || run.reason === "outcome_unknown") return run
      const page = await orchestrator.approvals.listApprovals(
        { workspaceId: me.workspaceId, runId },
        me.requester,
      )
      // It may have been withdrawn, or answered with the run not yet resumed.
      for (const approval of page.approvals) {
        await me.decide(approval, given.answer).catch(() => {})
      }
      await sleep(20)
      return undefined
    },
    { timeoutMs: 30_000 },
  )
  await expectExact(me, runId)
  return settled
}

async function expectExact(me: ReturnType<typeof inWorkspace>, runId: string): Promise<void> {
  const history = await me.history(runId)
  expect(history.map(({ sequence }) => Number(sequence))).toEqual(history.map((_, n) => n + 1))
  expect(history[0]?.kind.case).toBe("runStarted")
  const last = replay(history)
  const run = await me.get(runId)
  expect(last.get("run")).toBe(wordOf(runStateEnum, run.state))
  for (const call of await me.callsOf(runId)) {
    const stored = wordOf(toolCallStateEnum, call.state)
    expect(last.get(call.toolCallId) ?? "proposed").toBe(stored)
    if (run.endTime !== undefined) expect(call.state).not.toBe(ToolCallState.READY)
  }
  const { approvals } = await orchestrator.approvals.listApprovals(
    { workspaceId: me.workspaceId, runId },
    me.requester,
  )
  for (const { approvalId, state } of approvals) {
    expect(last.get(approvalId)).toBe(wordOf(approvalStateEnum, state))
  }
  const told = history.filter(isTold).map(({ kind }) => telemetryOf[kind.case ?? "runStarted"])
  const heard = await until(() => {
    const events = peers.events.filter((event) => event.runId === runId)
    return events.length >= told.length && events
  })
  expect(heard.map(({ payload }) => payload.case)).toEqual(told)
  expect(new Set(heard.map(({ eventId }) => eventId)).size).toBe(heard.length)
  await using worker = await connect(orchestrator.database.workerUrl)
  const claims = await worker.query("select from run_claims where run_id = $1::uuid", [runId])
  expect(claims).toHaveLength(run.endTime === undefined ? 1 : 0)
}

/** Telemetry hears nothing of states that a call only passes through. */
function isTold({ kind }: RunEvent): boolean {
  if (["runStarted", "approvalAnswered", "budgetWarned"].includes(kind.case ?? "")) return false
  if (kind.case !== "toolCallStateChanged") return true
  const { MODERATING, READY, EXECUTING } = ToolCallState
  return ![MODERATING, READY, EXECUTING].some((state) => state === kind.value.state)
}

const telemetryOf: Readonly<Record<NonNullable<RunEvent["kind"]["case"]>, string>> = {
  runStarted: "",
  runStateChanged: "runChanged",
  toolCallStateChanged: "toolCallChanged",
  contentModerated: "moderated",
  approvalStateChanged: "approvalChanged",
  approvalAnswered: "",
  budgetWarned: "",
}

/** Follows a history through the tables; the last state of the run, each call and each approval. */
function replay(history: readonly RunEvent[]): ReadonlyMap<string, string> {
  const last = new Map<string, string>()
  for (const { kind } of history) {
    switch (kind.case) {
      case "runStateChanged": {
        const state = wordOf(runStateEnum, kind.value.state) ?? "succeeded"
        const before = last.get("run") as typeof state | undefined
        if (before === undefined) expect(["queued", "running"]).toContain(state)
        else expect(nextRunStates(before)).toContain(state)
        if (before !== undefined) expect(isTerminalRun(before)).toBe(false)
        last.set("run", state)
        break
      }
      case "toolCallStateChanged": {
        const { toolCallId } = kind.value
        const state = wordOf(toolCallStateEnum, kind.value.state) ?? "proposed"
        const before = (last.get(toolCallId) ?? "proposed") as typeof state
        expect(nextToolCallStates(before)).toContain(state)
        last.set(toolCallId, state)
        break
      }
      case "approvalStateChanged": {
        const { approvalId } = kind.value
        const state = wordOf(approvalStateEnum, kind.value.state)
        const reachable = approvalEvents.map((event) => transitionApproval("pending", event).state)
        if (last.has(approvalId)) expect(last.get(approvalId)).toBe("pending")
        expect(last.has(approvalId) ? reachable : ["pending"]).toContain(state)
        last.set(approvalId, state ?? "")
        break
      }
    }
  }
  return last
}

/** Makes a run look as if its owner had vanished. */
async function vanish(runId: string): Promise<void> {
  await using worker = await connect(orchestrator.database.workerUrl)
  await worker.query(
    `update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now()
     where run_id = $1::uuid`,
    [runId, newId()],
  )
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
