/** Starting a run: with its first step, once, and waiting for its end wherever it is carried out. */
import { clone, create } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import fc from "fast-check"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import {
  OnError,
  type Plan,
  PlanSchema,
  type PlanStep,
} from "../../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { StartRunRequestSchema } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { readConfig } from "../config.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"
import { checkRequest } from "./new-run.ts"
import { startKeyOf } from "./start-key.ts"

let orchestrator: Orchestrator
const peers = createPeers()
const wait = durationFromMs(8_000)

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
  // The clock of the database is heard with the first run.
  await inWorkspace(orchestrator).start([{ tool: "low.read" }])
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

describe("a run", () => {
  it("is stored with the admission of its first call, in one row of its journal", async () => {
    const me = inWorkspace(orchestrator)
    const hold = Promise.withResolvers<void>()
    const usual = peers.script.execute
    peers.script.execute = async (request, context) => {
      await hold.promise
      return usual(request, context)
    }
    const run = await me.start([{ tool: "low.keyed" }, { tool: "low.keyed" }])
    expect(run.state).toBe(RunState.RUNNING)
    await using owner = await connect(orchestrator.database.ownerUrl ?? "")
    await owner.query("alter table journal no force row level security")
    const rows = await owner.query<{ entry_count: number }>(
      "select entry_count from journal where run_id = $1",
      [run.runId],
    )
    await owner.query("alter table journal force row level security")
    expect(rows).toEqual([{ entry_count: 6 }])
    hold.resolve()
    peers.script.execute = usual
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })

  it("may wait for a person, or be denied, from the start", async () => {
    const me = inWorkspace(orchestrator)
    const waiting = await me.start([{ tool: "high.keyed" }])
    expect(waiting.state).toBe(RunState.REQUIRES_ACTION)
    expect((await me.pendingApproval(waiting.runId)).approvalId).not.toBe("")
    const usual = peers.script.verdict
    peers.script.verdict = ({ workspaceId }) =>
      workspaceId === me.workspaceId ? Verdict.BLOCKED : Verdict.ALLOWED
    const denied = await me.start([{ tool: "low.keyed" }])
    expect(denied).toMatchObject({ state: RunState.FAILED, reason: "policy_denied" })
    expect(denied.policyDenial?.verdict).toBe("blocked")
    peers.script.verdict = usual
    const { run } = await orchestrator.runs.getRun(
      { workspaceId: me.workspaceId, runId: denied.runId },
      me.requester,
    )
    expect(run).toEqual(denied)
  })

  it("is stored without its first step where moderation takes its time", async () => {
    const me = inWorkspace(orchestrator)
    const usual = peers.script.moderate
    const hold = Promise.withResolvers<object>()
    peers.script.moderate = () => hold.promise
    const run = await me.start([{ tool: "low.keyed" }])
    expect(run.state).toBe(RunState.RUNNING)
    peers.script.moderate = usual
    hold.resolve({})
    expect(run.moderationOutcome).toBe(Verdict.UNSPECIFIED)
    await until(async () => (await me.get(run.runId)).endTime !== undefined)
  })

  it("that is started again gets the same answer, also when it has long gone on", async () => {
    const me = inWorkspace(orchestrator)
    for (const tool of ["low.keyed", "high.keyed"]) {
      const extra = { requestId: newId() }
      const first = await me.start([{ tool }], extra)
      if (tool === "low.keyed") await me.reaches(first.runId, RunState.SUCCEEDED)
      expect(await me.start([{ tool }], extra)).toEqual(first)
    }
  })
})

describe("a start that waits", () => {
  it("is answered when the run has ended, with the run as it is then", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }, { tool: "low.read" }], { wait })
    expect(run.state).toBe(RunState.SUCCEEDED)
    expect(await me.get(run.runId)).toEqual(run)
  })

  it("is answered when the run waits for a person", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.read" }, { tool: "high.keyed" }], { wait })
    expect(run.state).toBe(RunState.REQUIRES_ACTION)
  })

  it("is answered when its time is over, before its own deadline", async () => {
    const me = inWorkspace(orchestrator)
    const hold = Promise.withResolvers<object>()
    const usual = peers.script.execute
    peers.script.execute = () => hold.promise as never
    const begun = performance.now()
    const run = await me.start([{ tool: "low.keyed" }], { wait: durationFromMs(300) })
    expect(performance.now() - begun).toBeGreaterThan(290)
    expect(run.state).toBe(RunState.RUNNING)
    peers.script.execute = usual
    hold.resolve({})
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })

  it("and is sent again waits for the same run", async () => {
    const me = inWorkspace(orchestrator)
    const extra = { requestId: newId(), wait }
    const runs = await Promise.all(
      Array.from({ length: 5 }, () => me.start([{ tool: "low.keyed" }], extra)),
    )
    expect(new Set(runs.map(({ runId }) => runId)).size).toBe(1)
    expect(runs.map(({ state }) => state)).toEqual(runs.map(() => RunState.SUCCEEDED))
  })

  it("is answered also where another replica carries the run out", async () => {
    await using idle = await startOrchestrator({
      peers,
      database: orchestrator.database,
      // It has no place for a run.
      executor: { maxRuns: 0 },
    })
    const me = inWorkspace(idle)
    const begun = performance.now()
    const run = await me.start([{ tool: "low.keyed" }], { wait })
    expect(run.state).toBe(RunState.SUCCEEDED)
    expect(performance.now() - begun).toBeLessThan(5_000)
  })
})

describe("the key of a start", () => {
  const request = create(StartRunRequestSchema, {
    workspaceId: newId(),
    requestId: newId(),
    threadId: newId(),
    plan: {
      name: "plan",
      steps: [
        { tool: "a/b", arguments: { x: 1, y: { z: [1, "2"] } }, title: "t" },
        { tool: "c", version: "1", onError: 2 },
      ],
    },
    input: "words",
    timeout: { seconds: 5n, nanos: 1 },
  })
  const { limits } = readConfig({
    ORCHESTRATOR_DATABASE_URL: "postgres://app:x@127.0.0.1/orchestrator",
    ORCHESTRATOR_WORKER_DATABASE_URL: "postgres://worker:x@127.0.0.1/orchestrator",
  })
  const digest = (changed: typeof request) =>
    startKeyOf(changed, checkRequest(changed, limits).texts).sha256

  it("is the same whatever the order of what is said", () => {
    const other = clone(StartRunRequestSchema, request)
    const [step] = other.plan?.steps ?? []
    if (step !== undefined) step.arguments = { y: { z: [1, "2"] }, x: 1 }
    expect(digest(other)).toBe(digest(request))
    expect(digest({ ...other, $typeName: request.$typeName })).toBe(digest(request))
  })

  it("is another one for whatever is said otherwise", () => {
    const { steps = [] } = request.plan ?? {}
    const withPlan = (members: Partial<Plan>) => ({
      ...request,
      plan: create(PlanSchema, { name: "plan", steps, ...members }),
    })
    const withStep = (index: number, members: Partial<PlanStep>) =>
      withPlan({ steps: steps.map((step, at) => (at === index ? { ...step, ...members } : step)) })
    const changes: ((text: string) => typeof request)[] = [
      (threadId) => ({ ...request, threadId }),
      (input) => ({ ...request, input }),
      () => ({ ...request, timeout: durationFromMs(5_000) }),
      () => ({ ...request, wait: durationFromMs(1) }),
      (name) => withPlan({ name }),
      () => withPlan({ steps: steps.slice(1) }),
      () => withPlan({ steps: steps.toReversed() }),
      (tool) => withStep(0, { tool }),
      (version) => withStep(1, { version }),
      (title) => withStep(0, { title }),
      () => withStep(1, { onError: OnError.STOP }),
      (text) => withStep(1, { arguments: { text } }),
      (text) => withStep(0, { arguments: { x: text } }),
    ]
    const property = fc.property(
      fc.constantFrom(...changes),
      fc.string({ minLength: 1 }).filter((text) => text.isWellFormed() && !text.includes("\0")),
      (change, text) => {
        expect(digest(change(`${text}!`))).not.toBe(digest(request))
      },
    )
    fc.assert(property, { seed: 20_261_125, numRuns: 300 })
  })
})

it("an id that is used for another body is refused", async () => {
  const me = inWorkspace(orchestrator)
  const extra = { requestId: newId() }
  await me.start([{ tool: "low.keyed" }], extra)
  const error = await me.start([{ tool: "low.read" }], extra).catch((caught: unknown) => caught)
  expect(reasonOf(error)).toBe("REQUEST_ID_CONFLICT")
})
