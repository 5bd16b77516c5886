import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Verdict } from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import {
  createPeers,
  decisionFor,
  inWorkspace,
  startOrchestrator,
} from "../orchestrator-harness.ts"

const peers = createPeers()
const defaults = { ...peers.script }
let database: Awaited<ReturnType<typeof testDatabase>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
})

const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)
const start = (executor = {}) =>
  startOrchestrator({ peers, database, executor: { leaseMs: 900, ...executor } })

/** Makes a run look as if its owner had vanished a while ago. */
async function vanish(runId: string): Promise<void> {
  await using worker = await connect(database.workerUrl)
  await worker.query(
    `update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now()
     where run_id = $1::uuid`,
    [runId, newId()],
  )
}

describe("another replica", () => {
  it("takes over between intent and outcome, and the effect happens once", async () => {
    const hanging = Promise.withResolvers<void>()
    const first = await start()
    const me = inWorkspace(first)
    peers.script.execute = async (request, { signal }) => {
      if (request.stepIndex !== 1) return { step: request.stepIndex }
      await Promise.race([
        hanging.promise,
        new Promise((resolve) => signal.addEventListener("abort", resolve)),
      ])
      return { step: 1 }
    }
    const run = await me.start([
      { tool: "low.keyed" },
      { tool: "low.unsafe" },
      { tool: "low.keyed" },
    ])
    await until(async () => (await me.callsOf(run.runId))[1]?.state === ToolCallState.EXECUTING)
    await first[Symbol.asyncDispose]()
    await using second = await start()
    const after = { ...inWorkspace(second, me.workspaceId) }
    hanging.resolve()
    await after.reaches(run.runId, RunState.SUCCEEDED)
    const steps = effectsOf(run.runId).map(({ stepIndex }) => stepIndex)
    expect(steps).toEqual([0, 1, 2])
    expect((await after.callsOf(run.runId))[1]?.attempts).toBe(2)
  })

  it("takes a run from an owner that vanished, whose late writes change nothing", async () => {
    await using first = await start({ leaseMs: 60_000, pollMs: 60_000 })
    const me = inWorkspace(first)
    const gate = Promise.withResolvers<void>()
    peers.script.moderate = undefined
    const held = new Set<string>()
    peers.script.execute = async ({ runId, stepIndex }) => {
      if (stepIndex === 0 && !held.has(runId)) {
        held.add(runId)
        await gate.promise
      }
      return { step: stepIndex }
    }
    const run = await me.start([{ tool: "low.read" }, { tool: "low.keyed" }])
    await until(() => held.has(run.runId))
    await vanish(run.runId)
    await using second = await start()
    const there = inWorkspace(second, me.workspaceId)
    const ended = await there.reaches(run.runId, RunState.SUCCEEDED)
    const history = await there.history(run.runId)
    gate.resolve()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect((await there.get(run.runId)).etag).toBe(ended.etag)
    expect(await there.history(run.runId)).toHaveLength(history.length)
    const keyed = effectsOf(run.runId).filter(({ stepIndex }) => stepIndex === 1)
    expect(keyed).toHaveLength(1)
    expect(Number(keyed[0]?.epoch)).toBeGreaterThan(1)
  })

  it("fences out an owner that wakes up late in front of an execution", async () => {
    const slow = { moderateTimeoutMs: 10_000 }
    await using first = await start({ ...slow, leaseMs: 60_000, pollMs: 60_000 })
    const me = inWorkspace(first)
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    let asked = 0
    peers.script.moderate = async (request) => {
      await gates[asked++]?.promise
      return { decision: decisionFor(request, Verdict.ALLOWED) }
    }
    const run = await me.start([{ tool: "low.keyed" }])
    await until(() => asked === 1)
    await vanish(run.runId)
    await using second = await start(slow)
    const there = inWorkspace(second, me.workspaceId)
    await until(() => asked === 2)
    gates[0]?.resolve()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(effectsOf(run.runId)).toEqual([])
    expect((await there.callsOf(run.runId))[0]?.state).toBe(ToolCallState.PROPOSED)
    gates[1]?.resolve()
    await there.reaches(run.runId, RunState.SUCCEEDED)
    expect(effectsOf(run.runId).map(({ epoch }) => Number(epoch))).toEqual([3])
  })

  it("shares one database without running any step twice", { timeout: 60_000 }, async () => {
    const replicas = await Promise.all([start(), start(), start()])
    const workspaces = replicas.map((replica) => inWorkspace(replica))
    peers.script.execute = async ({ stepIndex }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 30))
      return { step: stepIndex }
    }
    const started = await Promise.all(
      workspaces.flatMap((me) =>
        Array.from({ length: 12 }, async () => {
          const run = await me.start([
            { tool: "low.read" },
            { tool: "low.keyed" },
            { tool: "low.unsafe" },
          ])
          if (Math.random() < 0.5) await vanish(run.runId)
          return { me, run }
        }),
      ),
    )
    for (const { me, run } of started) {
      await me.reaches(run.runId, RunState.SUCCEEDED, 30_000)
      const changing = effectsOf(run.runId).filter(({ stepIndex }) => stepIndex > 0)
      expect(changing.map(({ stepIndex }) => stepIndex)).toEqual([1, 2])
      const history = await me.history(run.runId)
      expect(history.map(({ sequence }) => Number(sequence))).toEqual(history.map((_, i) => i + 1))
    }
    await Promise.all(replicas.map((replica) => replica[Symbol.asyncDispose]()))
  })

  it("goes on with what waits for an approval after a restart of everything", async () => {
    const first = await start()
    const me = inWorkspace(first)
    const run = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    await first[Symbol.asyncDispose]()
    await using second = await start()
    const there = inWorkspace(second, me.workspaceId)
    await there.decide(approval)
    await there.reaches(run.runId, RunState.SUCCEEDED)
    expect(effectsOf(run.runId)).toHaveLength(1)
  })

  it("counts no owner as vanished that only lost its lease", async () => {
    await using replica = await start({ leaseMs: 60_000 })
    const me = inWorkspace(replica)
    const release = Promise.withResolvers<void>()
    peers.script.execute = async () => {
      await release.promise
      return {}
    }
    const run = await me.start([{ tool: "low.read" }])
    const attempts = async () => (await me.callsOf(run.runId))[0]?.attempts ?? 0
    for (let n = 1; n <= 5; n++) {
      await until(async () => (await attempts()) >= n)
      await vanish(run.runId)
      await until(async () => (await attempts()) > n)
    }
    release.resolve()
    await me.reaches(run.runId, RunState.SUCCEEDED)
  })
})

describe("a call", () => {
  it("whose request comes after its end was concluded runs nothing", async () => {
    const late: (() => Promise<unknown>)[] = []
    const { tools } = peers.clients
    const slow: typeof tools = {
      ...tools,
      execute(request, options = {}) {
        const { signal, ...others } = options
        late.push(() => tools.execute(request, others))
        return new Promise((_, reject) => {
          signal?.addEventListener("abort", () => reject(new RunwardenError("CANCELLED")))
        })
      },
    }
    const clients = Object.assign({}, peers.clients, { tools: slow })
    const slowPeers = Object.assign({}, peers, { clients })
    await using orchestrator = await startOrchestrator({ peers: slowPeers, database })
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }])
    await until(() => late.length === 1)
    await me.cancel(run.runId)
    await me.reaches(run.runId, RunState.CANCELLED)
    expect((await me.callsOf(run.runId))[0]).toMatchObject({
      state: ToolCallState.FAILED,
      reason: "cancelled",
    })
    await late[0]?.()
    expect(effectsOf(run.runId)).toEqual([])
  })

  it("that cannot be delivered is sent again, until it can or is given up", async () => {
    await using orchestrator = await start({ maxRetries: 3 })
    const me = inWorkspace(orchestrator)
    let failures = 0
    peers.script.execute = ({ stepIndex }) => {
      if (stepIndex === 0 && failures++ < 2) {
        throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "projects" })
      }
      return {}
    }
    const run = await me.start([{ tool: "low.keyed" }])
    await me.reaches(run.runId, RunState.SUCCEEDED)
    expect(failures).toBe(3)
    peers.script.execute = () => {
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "projects" })
    }
    const other = await me.start([{ tool: "low.keyed" }])
    const ended = await me.reaches(other.runId, RunState.FAILED)
    expect(ended.reason).toBe("tool_failed")
    expect((await me.callsOf(other.runId))[0]).toMatchObject({
      state: ToolCallState.FAILED,
      reason: "tool_unavailable",
    })
  })

  it("whose outcome is unknown waits until a person settles it", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const { workspaceId, approver } = me
    for (const isDone of [true, false]) {
      peers.script.execute = defaults.execute
      const run = await me.start([
        { tool: "high.unsafe" },
        { tool: "low.keyed", arguments: { id: { $from: 0, path: "/id" } } },
      ])
      const approval = await me.pendingApproval(run.runId)
      const [call] = await me.callsOf(run.runId)
      const toolCallId = call?.toolCallId ?? ""
      // The ledger already has the call, as one whose answer was lost.
      peers.ledger.set(`${run.runId}/0`, {
        request: {} as never,
        state: 4,
        outcome: undefined,
      })
      await me.decide(approval)
      const waiting = await me.reaches(run.runId, RunState.REQUIRES_ACTION)
      await until(async () => (await me.get(run.runId)).reason === "outcome_unknown")
      expect(waiting.stepIndex).toBe(0)
      const outcome = isDone
        ? ({ case: "result", value: { id: "found" } } as const)
        : ({ case: "error", value: { reason: "not_done" } } as const)
      const request = { workspaceId, requestId: newId(), toolCallId, outcome }
      const settled = await orchestrator.toolCalls.settleToolCall(request, approver)
      expect(settled.toolCall).toMatchObject({ settlerId: me.approverId })
      await me.reaches(run.runId, isDone ? RunState.SUCCEEDED : RunState.FAILED)
      if (isDone) expect((await me.callsOf(run.runId))[1]?.arguments).toEqual({ id: "found" })
      const again = { ...request, requestId: newId() }
      const error = await orchestrator.toolCalls.settleToolCall(again, approver).catch((e) => e)
      expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    }
  })
})

describe("a deadline", () => {
  it("ends a run that waits, and one whose call hangs", async () => {
    await using orchestrator = await start()
    const me = inWorkspace(orchestrator)
    const timeout = { timeout: { seconds: 0n, nanos: 400_000_000 } }
    const waiting = await me.start([{ tool: "high.keyed" }], timeout)
    peers.script.execute = () => new Promise(() => {})
    const hanging = await me.start([{ tool: "low.read" }], timeout)
    for (const { runId } of [waiting, hanging]) {
      const ended = await me.reaches(runId, RunState.EXPIRED)
      expect(ended.reason).toBe("deadline_exceeded")
    }
    expect((await me.callsOf(waiting.runId))[0]?.state).toBe(ToolCallState.EXPIRED)
    expect((await me.callsOf(hanging.runId))[0]?.state).toBe(ToolCallState.FAILED)
  })
})
