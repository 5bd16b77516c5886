/** Whatever moderation does but say yes, nothing runs: every fault of it, on every subject. */
import { create } from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Subject, Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import {
  type ModerateRequest,
  ModerateResponseSchema,
} from "../../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
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

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
})
afterEach(() => {
  peers.script.moderate = undefined
  peers.script.verdict = () => Verdict.ALLOWED
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

type Answer = (request: ModerateRequest) => Promise<object> | object

const allowed = (request: ModerateRequest) => decisionFor(request, Verdict.ALLOWED)
const withDecision = (change: (decision: ReturnType<typeof allowed>) => object): Answer => {
  return (request) =>
    create(ModerateResponseSchema, { decision: change(allowed(request)) as never })
}

const faults: Readonly<Record<string, Answer>> = {
  "is refused": () => {
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "moderation" })
  },
  "hangs for ever": () => new Promise<object>(() => {}),
  "answers after its deadline": async (request) => {
    await new Promise((resolve) => setTimeout(resolve, 900))
    return { decision: allowed(request) }
  },
  "fails inside": () => {
    throw new Error("boom")
  },
  "is overloaded": () => {
    throw new ConnectError("too many", Code.ResourceExhausted)
  },
  "answers nothing": () => create(ModerateResponseSchema, {}),
  "answers no verdict": withDecision((one) => ({ ...one, verdict: Verdict.UNSPECIFIED })),
  "answers an unknown verdict": withDecision((one) => ({ ...one, verdict: 17 as never })),
  "answers a score that is no number": withDecision((one) => ({
    ...one,
    categories: { violence: Number.NaN },
  })),
  "echoes another run": withDecision((one) => ({ ...one, runId: newId() })),
  "echoes another step": withDecision((one) => ({ ...one, stepIndex: 7 })),
  "answers about other content": withDecision((one) => ({
    ...one,
    contentDigest: "00".repeat(32),
  })),
  "answers about another workspace": withDecision((one) => ({ ...one, workspaceId: newId() })),
  "names no decision": withDecision((one) => ({ ...one, decisionId: "" })),
  "names no policy": withDecision((one) => ({ ...one, policyVersion: "" })),
  "allows what it could not evaluate": withDecision((one) => ({ ...one, failure: "rule failed" })),
}

describe("moderation that", () => {
  for (const [name, fault] of Object.entries(faults)) {
    it(`${name} lets no input and no call through, and no result out`, async () => {
      const me = inWorkspace(orchestrator)
      const subjects = [Subject.RUN_INPUT, Subject.TOOL_ARGUMENTS, Subject.TOOL_RESULT]
      const runs = await Promise.all(subjects.map((subject) => startWithFault(me, subject, fault)))
      for (const [index, runId] of runs.entries()) {
        const run = await me.reaches(runId, RunState.FAILED)
        expect(run).toMatchObject({
          reason: "policy_denied",
          moderationOutcome: Verdict.BLOCKED,
          policyDenial: { failure: "moderation_unavailable", verdict: "blocked", decisionId: "" },
        })
        const effects = peers.effects.filter((effect) => effect.runId === runId)
        expect(effects).toHaveLength(subjects[index] === Subject.TOOL_RESULT ? 1 : 0)
        const [first, second] = await me.callsOf(runId)
        expect(first?.outcome.case).toBeUndefined()
        expect(second?.state).toBe(ToolCallState.CANCELLED)
        const event = await until(() =>
          peers.events.find(
            ({ runId: id, payload }) =>
              id === runId && payload.case === "moderated" && payload.value.unavailable,
          ),
        )
        expect(event.payload.value).toMatchObject({ verdict: "blocked", unavailable: true })
      }
    })
  }

  it("is away for a moment is asked again, and its answer counts", async () => {
    await using patient = await startOrchestrator({
      peers,
      database: orchestrator.database,
      executor: { moderateTimeoutMs: 5_000 },
    })
    const me = inWorkspace(patient)
    const asked = new Map<string, number>()
    const usual = peers.script.moderate
    peers.script.moderate = (request) => {
      const times = (asked.get(request.runId) ?? 0) + 1
      asked.set(request.runId, times)
      if (times <= 2) throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "db" })
      return usual?.(request) ?? { decision: allowed(request) }
    }
    const { runId } = await me.start([{ tool: "low.keyed", arguments: {} }])
    await me.reaches(runId, RunState.SUCCEEDED)
    // Two refusals, the arguments, the result; the arguments once more where the run was stored
    // before moderation was there.
    expect([4, 5]).toContain(asked.get(runId))
    peers.script.moderate = usual
  })

  /** Faults of one subject at a time: other runs of the same moment are judged as they should be. */
  async function startWithFault(
    me: ReturnType<typeof inWorkspace>,
    subject: Subject,
    fault: Answer,
  ): Promise<string> {
    const bad = new Set<string>()
    const before = peers.script.moderate
    peers.script.moderate = (request) => {
      if (request.content?.marker === subject || request.content?.input === `marker ${subject}`) {
        bad.add(request.runId)
      }
      const isHit = bad.has(request.runId) && request.subject === subject
      if (isHit) return fault(request)
      return before?.(request) ?? { decision: allowed(request) }
    }
    const steps = [
      { tool: "low.keyed", arguments: { marker: subject } },
      { tool: "low.keyed", arguments: { next: { $from: 0, path: "/id" } } },
    ]
    return (await me.start(steps, { input: `marker ${subject}` })).runId
  }
})

describe("a blocked call", () => {
  it("is denied with what a user interface needs to say why, and is never asked about", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.verdict = ({ subject }) =>
      subject === Subject.TOOL_ARGUMENTS ? Verdict.BLOCKED : Verdict.ALLOWED
    const run = await me.start([{ tool: "high.unsafe", arguments: { text: "bad" } }])
    const ended = await me.reaches(run.runId, RunState.FAILED)
    const denial = {
      verdict: "blocked",
      categories: ["violence", "harassment"],
      matchedRules: ["rule-1"],
      policyVersion: "test@1",
      approvable: false,
      failure: "",
    }
    expect(ended).toMatchObject({ reason: "policy_denied", policyDenial: denial })
    const [call] = await me.callsOf(run.runId)
    expect(call).toMatchObject({
      state: ToolCallState.DENIED,
      reason: "policy_denied",
      policyDenial: denial,
      verdict: Verdict.BLOCKED,
      attempts: 0,
    })
    expect(ended.policyDenial?.decisionId).toBe(call?.decisionId)
    const { workspaceId, requester } = me
    const asked = await orchestrator.approvals.listApprovals({ workspaceId }, requester)
    expect(asked.approvals).toEqual([])
    expect(peers.effects.filter(({ runId }) => runId === run.runId)).toEqual([])
  })

  it("withholds a blocked result: the call stays succeeded, the run ends denied", async () => {
    const me = inWorkspace(orchestrator)
    peers.script.verdict = ({ subject }) =>
      subject === Subject.TOOL_RESULT ? Verdict.BLOCKED : Verdict.ALLOWED
    const run = await me.start([{ tool: "low.read" }, { tool: "low.keyed" }])
    const ended = await me.reaches(run.runId, RunState.FAILED)
    expect(ended.reason).toBe("policy_denied")
    const [call] = await me.callsOf(run.runId)
    expect(call).toMatchObject({
      state: ToolCallState.SUCCEEDED,
      moderationOutcome: Verdict.BLOCKED,
      verdict: Verdict.ALLOWED,
      policyDenial: { verdict: "blocked" },
    })
    expect(call?.outcome.case).toBeUndefined()
  })
})
