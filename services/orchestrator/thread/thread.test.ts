import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { type Run, RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { BusyThreadPolicy } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { connect } from "../../../mesh/database.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
const defaults = { ...peers.script }
let database: Awaited<ReturnType<typeof testDatabase>>
let orchestrator: Awaited<ReturnType<typeof startOrchestrator>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
  orchestrator = await startOrchestrator({ peers, database })
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

const steps = [{ tool: "low.keyed" }]
const effectsOf = (runId: string) => peers.effects.filter((effect) => effect.runId === runId)

function inThread(threadId: string = newId()) {
  const me = inWorkspace(orchestrator)
  const { workspaceId, requester } = me
  return {
    ...me,
    threadId,
    next: (policy: BusyThreadPolicy = 0, plan: { tool: string }[] = steps, extra = {}) =>
      me.start(plan, { threadId, onBusyThread: policy, ...extra }),
    async thread() {
      const { thread } = await orchestrator.threads.getThread({ workspaceId, threadId }, requester)
      if (thread === undefined) throw new Error("no thread")
      return thread
    },
  }
}

/** Holds every call of a run until it is let go. */
function holding() {
  const gates = new Map<string, PromiseWithResolvers<void>>()
  const begun: string[] = []
  const gateOf = (runId: string) => {
    const gate = gates.get(runId) ?? Promise.withResolvers<void>()
    gates.set(runId, gate)
    return gate
  }
  peers.script.execute = async ({ runId }, { signal }) => {
    begun.push(runId)
    const aborted = new Promise((resolve) => signal.addEventListener("abort", resolve))
    await Promise.race([gateOf(runId).promise, aborted])
    return {}
  }
  return { begun, letGo: (run: Run) => gateOf(run.runId).resolve() }
}

describe("a busy thread", () => {
  it("carries its runs out one after the other, in the order in which they were started", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    const first = await me.next()
    const second = await me.next()
    const third = await me.next()
    expect(second).toMatchObject({ state: RunState.QUEUED, reason: "thread_busy" })
    await until(() => begun.length === 1)
    expect(await me.thread()).toMatchObject({
      currentRunId: first.runId,
      queuedRunIds: [second.runId, third.runId],
      runCount: 3n,
    })
    for (const run of [first, second, third]) {
      await until(() => begun.includes(run.runId))
      expect(begun.at(-1)).toBe(run.runId)
      letGo(run)
      await me.reaches(run.runId, RunState.SUCCEEDED)
    }
    expect(begun).toEqual([first.runId, second.runId, third.runId])
    expect(await me.thread()).toMatchObject({ currentRunId: "", queuedRunIds: [] })
  })

  it("goes on within a moment of the end before", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    const first = await me.next()
    const second = await me.next()
    await until(() => begun.length === 1)
    letGo(first)
    await me.reaches(first.runId, RunState.SUCCEEDED)
    const endedAt = performance.now()
    await until(() => begun.includes(second.runId))
    expect(performance.now() - endedAt).toBeLessThan(500)
    letGo(second)
    await me.reaches(second.runId, RunState.SUCCEEDED)
  })

  it("does not hold up other threads, nor runs that name none", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    await me.next()
    const waiting = await me.next()
    const elsewhere = await me.start(steps, { threadId: newId() })
    const alone = await me.start(steps)
    await until(() => begun.includes(elsewhere.runId) && begun.includes(alone.runId))
    expect(begun).not.toContain(waiting.runId)
    for (const run of [elsewhere, alone]) letGo(run)
    await me.reaches(alone.runId, RunState.SUCCEEDED)
  })

  it("keeps a run in line behind the one it was made for, which nobody had named", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    const first = await me.start(steps)
    await until(() => begun.length === 1)
    const { threadId } = first
    const second = await me.start(steps, { threadId })
    expect(second).toMatchObject({ state: RunState.QUEUED, reason: "thread_busy" })
    letGo(first)
    await me.reaches(first.runId, RunState.SUCCEEDED)
    letGo(second)
    await me.reaches(second.runId, RunState.SUCCEEDED)
    expect(begun).toEqual([first.runId, second.runId])
  })

  it("refuses whom the request wants refused, naming the run, and stores nothing", async () => {
    const me = inThread()
    const { letGo } = holding()
    const first = await me.next(BusyThreadPolicy.REJECT)
    const requestId = newId()
    const refused = await me.next(BusyThreadPolicy.REJECT, steps, { requestId }).catch((e) => e)
    expect(reasonOf(refused)).toBe("THREAD_BUSY")
    expect(metadataOf(refused)).toEqual({ thread_id: me.threadId, run_id: first.runId })
    expect((await me.thread()).runCount).toBe(1n)
    letGo(first)
    await me.reaches(first.runId, RunState.SUCCEEDED)
    // The id was not used up.
    const again = await me.next(BusyThreadPolicy.REJECT, steps, { requestId })
    letGo(again)
    await me.reaches(again.runId, RunState.SUCCEEDED)
  })

  it("gives a request that is sent again the run that it has started, whatever the policy", async () => {
    const me = inThread()
    const { letGo } = holding()
    for (const policy of [BusyThreadPolicy.REJECT, BusyThreadPolicy.CANCEL_OTHER]) {
      const requestId = newId()
      const run = await me.next(policy, steps, { requestId })
      expect((await me.next(policy, steps, { requestId })).runId).toBe(run.runId)
      letGo(run)
      await me.reaches(run.runId, RunState.SUCCEEDED)
    }
  })

  it("of many at once that want to be alone starts one", async () => {
    const me = inThread()
    const { letGo } = holding()
    const answers = await Promise.allSettled(
      Array.from({ length: 20 }, () => me.next(BusyThreadPolicy.REJECT)),
    )
    const started = answers.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []))
    const reasons = answers.flatMap((one) => (one.status === "rejected" ? [one.reason] : []))
    expect(started).toHaveLength(1)
    expect(new Set(reasons.map(reasonOf))).toEqual(new Set(["THREAD_BUSY"]))
    for (const run of started) letGo(run)
  })

  it("takes no more than a hundred live runs", async () => {
    const me = inThread()
    const { letGo } = holding()
    const first = await me.next()
    const rest = await Promise.all(Array.from({ length: 99 }, () => me.next()))
    const refused = await me.next().catch((e) => e)
    expect(reasonOf(refused)).toBe("LIMIT_EXCEEDED")
    expect(metadataOf(refused)).toEqual({ limit: "thread_runs", maximum: "100" })
    await Promise.all(rest.map(({ runId }) => me.cancel(runId)))
    expect(await me.thread()).toMatchObject({ currentRunId: first.runId, queuedRunIds: [] })
    letGo(first)
  })
})

describe("the run that takes the place of the others", () => {
  it("waits for the call that is executing, and cancels all before it", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    const first = await me.next(BusyThreadPolicy.UNSPECIFIED, [...steps, ...steps])
    const second = await me.next()
    await until(() => begun.length === 1)
    const third = await me.next(BusyThreadPolicy.CANCEL_OTHER)
    expect((await me.get(second.runId)).state).toBe(RunState.CANCELLED)
    await me.reaches(first.runId, RunState.CANCELLED)
    letGo(third)
    await me.reaches(third.runId, RunState.SUCCEEDED)
    expect(begun).toEqual([first.runId, third.runId])
    expect(effectsOf(second.runId)).toEqual([])
  })

  it("withdraws the question that one of them waits with", async () => {
    const me = inThread()
    const first = await me.next(BusyThreadPolicy.UNSPECIFIED, [{ tool: "high.keyed" }])
    await me.pendingApproval(first.runId)
    const second = await me.next(BusyThreadPolicy.CANCEL_OTHER)
    expect(await me.get(first.runId)).toMatchObject({
      state: RunState.CANCELLED,
      reason: "cancelled",
    })
    await me.reaches(second.runId, RunState.SUCCEEDED)
  })

  it("of many at once the last one is left", async () => {
    const me = inThread()
    const runs = await Promise.all(
      Array.from({ length: 5 }, () =>
        me.next(BusyThreadPolicy.CANCEL_OTHER, [{ tool: "high.keyed" }]),
      ),
    )
    const live = await until(async () => {
      const now = await Promise.all(runs.map(({ runId }) => me.get(runId)))
      const left = now.filter(({ endTime }) => endTime === undefined)
      return left.length === 1 && left
    })
    expect(await me.thread()).toMatchObject({ currentRunId: live[0]?.runId, queuedRunIds: [] })
  })
})

describe("the next of a thread", () => {
  it.each([
    ["expires", { timeout: { nanos: 300_000_000 } }, RunState.EXPIRED],
    ["is cancelled", {}, RunState.CANCELLED],
  ])("has its turn when the one before %s", async (how, extra, state) => {
    const me = inThread()
    const waits = [{ tool: "high.keyed" }]
    const first = await me.next(BusyThreadPolicy.UNSPECIFIED, waits, extra)
    const second = await me.next()
    if (how === "is cancelled") await me.cancel(first.runId)
    await me.reaches(first.runId, state)
    await me.reaches(second.runId, RunState.SUCCEEDED)
  })

  it("expires while it waits, and lets the one behind it pass", async () => {
    const me = inThread()
    const { letGo } = holding()
    const first = await me.next()
    const second = await me.next(BusyThreadPolicy.UNSPECIFIED, steps, {
      timeout: { nanos: 200_000_000 },
    })
    const third = await me.next()
    await me.reaches(second.runId, RunState.EXPIRED)
    expect(await me.thread()).toMatchObject({ queuedRunIds: [third.runId] })
    for (const run of [first, third]) letGo(run)
    await me.reaches(third.runId, RunState.SUCCEEDED)
    expect(effectsOf(second.runId)).toEqual([])
  })

  it("goes back in line where it is looked at too early, and nobody is blamed for it", async () => {
    const me = inThread()
    const { begun, letGo } = holding()
    const first = await me.next()
    const second = await me.next()
    await using worker = await connect(database.workerUrl)
    const early = `update run_claims set due_time = now() where run_id = $1::uuid`
    const claim = `select owner is null and due_time > now() + interval '1 minute' as rests, crashes
      from run_claims where run_id = $1::uuid`
    for (let look = 0; look < 4; look++) {
      await worker.query(early, [second.runId])
      await until(async () => {
        const [row] = await worker.query<{ rests: boolean; crashes: number }>(claim, [second.runId])
        return row?.rests === true && row.crashes === 0
      })
    }
    expect(begun).toEqual([first.runId])
    for (const run of [first, second]) letGo(run)
    await me.reaches(second.runId, RunState.SUCCEEDED)
  })

  it("cannot begin before its turn, whatever the code above thinks", async () => {
    const me = inThread()
    const { letGo } = holding()
    const first = await me.next()
    const second = await me.next()
    await using owner = await connect(database.workerUrl)
    await owner.query(`select set_config('runwarden.workspace_ids', $1, false)`, [
      `{${me.workspaceId}}`,
    ])
    const begin = owner.query("update runs set state = 'running' where run_id = $1::uuid", [
      second.runId,
    ])
    await expect(begin).rejects.toThrow(/has not ended/)
    for (const run of [first, second]) letGo(run)
    await me.reaches(second.runId, RunState.SUCCEEDED)
  })
})
