import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Subject, Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
const peers = createPeers()

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

describe("a plan", () => {
  it("is carried out step by step, with results passed on", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([
      { tool: "low.keyed", arguments: { name: "apollo" } },
      { tool: "test/low.read", arguments: { from: { $from: 0, path: "/id" } } },
      { tool: "medium.unsafe", arguments: { both: [{ $from: 1, path: "/step" }, 7] } },
    ])
    expect(run.state).toBe(RunState.RUNNING)
    const ended = await me.reaches(run.runId, RunState.SUCCEEDED)
    expect(ended).toMatchObject({
      stepIndex: 3,
      stepCount: 3,
      reason: "",
      moderationOutcome: Verdict.ALLOWED,
      requesterId: me.requesterId,
      planName: "test",
    })
    expect(ended.endTime).toBeDefined()
    const calls = await me.callsOf(run.runId)
    expect(calls.map((call) => call.state)).toEqual([6, 6, 6])
    expect(calls[1]).toMatchObject({
      tool: "test/low.read",
      toolVersion: "1.0.0",
      idempotencyKey: `${run.runId}/1`,
      arguments: { from: "made-0" },
      provenance: [0],
      verdict: Verdict.ALLOWED,
      policyVersion: "test@1",
      attempts: 1,
      outcome: { case: "result", value: { step: 1 } },
    })
    expect(calls[2]?.arguments).toEqual({ both: [1, 7] })
    const asked = peers.judged.filter(({ runId }) => runId === run.runId)
    expect(asked.map(({ subject }) => subject)).toEqual([2, 3, 2, 3, 2, 3])
    expect(asked[2]?.provenance).toEqual(["test/low.keyed"])
    expect(asked[4]?.history).toEqual(["test/low.keyed", "test/low.read"])
  })

  it("leaves a complete history and telemetry behind", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }])
    await me.reaches(run.runId, RunState.SUCCEEDED)
    const history = await me.history(run.runId)
    expect(history.map(({ sequence }) => Number(sequence))).toEqual(history.map((_, i) => i + 1))
    expect(history.map(({ kind }) => kind.case)).toEqual([
      "runStarted",
      "runStateChanged",
      "toolCallStateChanged",
      "contentModerated",
      "toolCallStateChanged",
      "toolCallStateChanged",
      "toolCallStateChanged",
      "contentModerated",
      "runStateChanged",
    ])
    const events = await until(() => {
      const own = peers.events.filter(({ runId }) => runId === run.runId)
      return own.length >= 5 && own
    })
    expect(events.map(({ payload }) => payload.case)).toEqual([
      "runChanged",
      "moderated",
      "toolCallChanged",
      "moderated",
      "runChanged",
    ])
    expect(new Set(events.map(({ traceId }) => traceId)).size).toBe(1)
    expect(run.traceId).toBe(events[0]?.traceId)
  })

  it("goes on after a tool's own error only where the step says so", async () => {
    const me = inWorkspace(orchestrator)
    const before = peers.script.execute
    peers.script.execute = (request, context) =>
      request.arguments?.fail === true
        ? { error: { reason: "not_found", message: "no such thing" } }
        : before(request, context)
    const stopped = await me.start([
      { tool: "low.keyed", arguments: { fail: true } },
      { tool: "low.keyed" },
    ])
    const ended = await me.reaches(stopped.runId, RunState.FAILED)
    expect(ended.reason).toBe("tool_failed")
    expect((await me.callsOf(stopped.runId)).map(({ state }) => state)).toEqual([
      ToolCallState.FAILED,
      ToolCallState.CANCELLED,
    ])
    const continued = await me.start([
      { tool: "low.keyed", arguments: { fail: true }, onError: 2 },
      { tool: "low.keyed", arguments: { why: { $from: 0, path: "/error/reason" } } },
    ])
    await me.reaches(continued.runId, RunState.SUCCEEDED)
    expect((await me.callsOf(continued.runId))[1]?.arguments).toEqual({ why: "not_found" })
    peers.script.execute = before
  })

  it("ends where a reference finds nothing, and where its resolved arguments break the schema", async () => {
    const me = inWorkspace(orchestrator)
    for (const path of ["/nothing", "/flag"]) {
      const before = peers.script.execute
      peers.script.execute = () => ({ flag: true })
      const run = await me.start([
        { tool: "low.keyed" },
        { tool: "low.keyed", arguments: { invalid: { $from: 0, path } } },
      ])
      const ended = await me.reaches(run.runId, RunState.FAILED)
      expect(ended.reason).toBe("arguments_invalid")
      expect((await me.callsOf(run.runId))[1]).toMatchObject({
        state: ToolCallState.DENIED,
        reason: "arguments_invalid",
        attempts: 0,
      })
      peers.script.execute = before
    }
  })
})

describe("StartRun", () => {
  it("refuses what cannot be run, names the place and stores nothing", async () => {
    const me = inWorkspace(orchestrator)
    const bad = [
      [{ tool: "low.keyed" }, { tool: "no.such" }, "UNKNOWN_TOOL", "plan.steps[1].tool"],
      [
        { tool: "low.keyed" },
        { tool: "low.keyed", arguments: { invalid: true } },
        "TOOL_ARGUMENTS_INVALID",
        "plan.steps[1].arguments/invalid",
      ],
      [
        { tool: "low.keyed" },
        { tool: "low.keyed", arguments: { a: { $from: 1 } } },
        "INVALID_PLAN",
        "plan.steps[1].arguments",
      ],
    ] as const
    for (const [one, other, reason, field] of bad) {
      const error = await me.start([one, other]).catch((caught: unknown) => caught)
      expect(reasonOf(error)).toBe(reason)
      expect(metadataOf(error).field).toBe(field)
    }
    const input = await me.start([{ tool: "low.keyed" }], { input: "a\0b" }).catch((e) => e)
    expect(reasonOf(input)).toBe("INVALID_REQUEST")
    const { runs } = await orchestrator.runs.listRuns({ workspaceId: me.workspaceId }, me.requester)
    expect(runs).toEqual([])
  })

  it("answers the same request once, and refuses its id for another body", async () => {
    const me = inWorkspace(orchestrator)
    const request = {
      workspaceId: me.workspaceId,
      requestId: newId(),
      plan: { name: "once", steps: [{ tool: "low.keyed", arguments: { a: 1 } }] },
    }
    const answers = await Promise.all(
      Array.from({ length: 16 }, () => orchestrator.runs.startRun(request, me.requester)),
    )
    const ids = new Set(answers.map(({ run }) => run?.runId))
    expect(ids.size).toBe(1)
    const [runId = ""] = ids
    await me.reaches(String(runId), RunState.SUCCEEDED)
    expect(peers.effects.filter((effect) => effect.runId === runId)).toHaveLength(1)
    const other = { ...request, plan: { ...request.plan, name: "twice" } }
    const error = await orchestrator.runs.startRun(other, me.requester).catch((e) => e)
    expect(reasonOf(error)).toBe("REQUEST_ID_CONFLICT")
  })
})

describe("the input", () => {
  it("is judged before the first step, and ends the run where it is blocked", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.verdict = ({ subject }) =>
      subject === Subject.RUN_INPUT ? Verdict.BLOCKED : Verdict.ALLOWED
    const run = await me.start([{ tool: "low.keyed" }], { input: "do something bad" })
    const ended = await me.reaches(run.runId, RunState.FAILED)
    peers.script.verdict = () => Verdict.ALLOWED
    expect(ended).toMatchObject({
      reason: "policy_denied",
      moderationOutcome: Verdict.BLOCKED,
      policyDenial: { verdict: "blocked", matchedRules: ["rule-1"], policyVersion: "test@1" },
    })
    expect(peers.effects.filter(({ runId }) => runId === run.runId)).toEqual([])
    expect((await me.callsOf(run.runId))[0]?.state).toBe(ToolCallState.CANCELLED)
  })
})

describe("reading", () => {
  it("pages through runs, newest first, by state and thread", async () => {
    const me = inWorkspace(orchestrator)
    const threadId = newId()
    const ids: string[] = []
    for (let n = 0; n < 5; n++) {
      const extra = n % 2 === 0 ? { threadId } : {}
      ids.unshift((await me.start([{ tool: "low.read" }], extra)).runId)
    }
    for (const id of ids) await me.reaches(id, RunState.SUCCEEDED)
    const { workspaceId, requester } = me
    const seen: string[] = []
    let pageToken = ""
    do {
      const request = { workspaceId, pageSize: 2, pageToken }
      const page = await orchestrator.runs.listRuns(request, requester)
      expect(page.runs.every(({ plan }) => plan === undefined)).toBe(true)
      seen.push(...page.runs.map(({ runId }) => runId))
      pageToken = page.nextPageToken
    } while (pageToken !== "")
    expect(seen).toEqual(ids)
    const ofThread = await orchestrator.runs.listRuns({ workspaceId, threadId }, requester)
    expect(ofThread.runs).toHaveLength(3)
    const running = { workspaceId, states: [RunState.RUNNING] }
    expect((await orchestrator.runs.listRuns(running, requester)).runs).toEqual([])
  })

  it("shows another workspace nothing, and says the same as for what does not exist", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    const [call] = await me.callsOf(run.runId)
    const other = newId()
    const stranger = actingAs(memberSubject(other, newId(), Role.ADMIN))
    const requestId = newId()
    const outcome = { case: "result", value: {} } as const
    const ask = (runId: string, toolCallId: string, approvalId: string) => [
      orchestrator.runs.getRun({ workspaceId: other, runId }, stranger),
      orchestrator.runs.listRunEvents({ workspaceId: other, runId }, stranger),
      orchestrator.runs.cancelRun({ workspaceId: other, runId, requestId }, stranger),
      orchestrator.toolCalls.getToolCall({ workspaceId: other, toolCallId }, stranger),
      orchestrator.toolCalls.settleToolCall(
        { workspaceId: other, toolCallId, requestId, outcome },
        stranger,
      ),
      orchestrator.approvals.getApproval({ workspaceId: other, approvalId }, stranger),
      orchestrator.approvals.decide(
        { workspaceId: other, approvalId, requestId, digest: approval.digest, answer: 1 },
        stranger,
      ),
    ]
    const theirs = await Promise.allSettled(
      ask(run.runId, call?.toolCallId ?? "", approval.approvalId),
    )
    const missing = await Promise.allSettled(ask(newId(), newId(), newId()))
    for (const answer of [...theirs, ...missing]) {
      expect(answer.status === "rejected" && reasonOf(answer.reason)).toBe("NOT_FOUND")
    }
    const lists = await Promise.all([
      orchestrator.runs.listRuns({ workspaceId: other }, stranger),
      orchestrator.toolCalls.listToolCalls({ workspaceId: other, runId: run.runId }, stranger),
      orchestrator.approvals.listApprovals({ workspaceId: other }, stranger),
    ])
    expect(JSON.stringify(lists.map(({ nextPageToken: _, ...rest }) => rest))).not.toContain(
      run.runId,
    )
    await me.cancel(run.runId)
  })
})
