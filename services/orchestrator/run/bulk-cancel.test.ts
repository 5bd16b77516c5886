import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { type Run, RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
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

const waits = [{ tool: "high.keyed" }]
const later = { delay: { seconds: 3_600n } }

function asAdmin() {
  const me = inWorkspace(orchestrator)
  const { workspaceId } = me
  const admin = actingAs(memberSubject(workspaceId, newId(), Role.ADMIN))
  const cancel = (filter: object = {}, requestId = newId()) =>
    orchestrator.bulk.bulkCancelRuns({ workspaceId, requestId, ...filter }, admin)
  return { ...me, admin, cancel }
}

type Me = ReturnType<typeof asAdmin>

const stateOf = async (me: Me, runId: string) => (await me.get(runId)).state
const start = async (me: Me, count: number, extra: object = later) =>
  Promise.all(Array.from({ length: count }, () => me.start(waits, extra)))

describe("BulkCancelRuns", () => {
  it("cancels what is live page by page, and nothing else", async () => {
    const me = asAdmin()
    const other = asAdmin()
    const theirs = await other.start(waits, later)
    const done = await me.start([{ tool: "low.keyed" }])
    await me.reaches(done.runId, RunState.SUCCEEDED)
    const runs = await start(me, 25)
    const waiting = await me.start(waits)
    const approval = await me.pendingApproval(waiting.runId)
    const ended: string[] = []
    let pageToken = ""
    do {
      const page = await me.cancel({ pageSize: 10, pageToken })
      expect(page.runIds.length).toBeLessThanOrEqual(10)
      for (const runId of page.runIds) expect(await stateOf(me, runId)).toBe(RunState.CANCELLED)
      ended.push(...page.runIds)
      pageToken = page.nextPageToken
    } while (pageToken !== "")
    const expected = [...runs, waiting].map(({ runId }) => runId)
    expect(ended.toSorted()).toEqual(expected.toSorted())
    expect(ended).toEqual(ended.toSorted().toReversed())
    const { approvalId } = approval
    const { workspaceId, requester } = me
    const after = await orchestrator.approvals.getApproval({ workspaceId, approvalId }, requester)
    expect(after.approval?.state).toBe(ApprovalState.CANCELLED)
    expect(await stateOf(me, done.runId)).toBe(RunState.SUCCEEDED)
    expect((await other.get(theirs.runId)).state).toBe(RunState.QUEUED)
  })

  it("stops what executes, and starts nothing after it has answered", async () => {
    const me = asAdmin()
    let isAnswered = false
    let late = 0
    const begun = new Set<string>()
    peers.script.execute = async (request, { signal }) => {
      if (request.workspaceId !== me.workspaceId) return {}
      if (isAnswered) late += 1
      begun.add(request.runId)
      await Promise.race([
        new Promise((resolve) => setTimeout(resolve, 30)),
        new Promise((resolve) => signal.addEventListener("abort", resolve)),
      ])
      return {}
    }
    const steps = Array.from({ length: 20 }, () => ({ tool: "low.keyed" }))
    const runs = await Promise.all(Array.from({ length: 20 }, () => me.start(steps)))
    await until(() => begun.size > 10)
    const { runIds } = await me.cancel()
    isAnswered = true
    expect(runIds).toHaveLength(20)
    for (const { runId } of runs) await me.reaches(runId, RunState.CANCELLED)
    expect(late).toBe(0)
  })

  it("counts in a dry run, and cancels none", async () => {
    const me = asAdmin()
    const runs = await start(me, 7)
    expect(await me.cancel({ dryRun: true, pageSize: 2 })).toMatchObject({
      matchedCount: 7n,
      runIds: [],
      nextPageToken: "",
    })
    for (const { runId } of runs) expect(await stateOf(me, runId)).toBe(RunState.QUEUED)
  })

  it("takes only what fits the filter", async () => {
    const me = asAdmin()
    const threadId = newId()
    const [inThread] = await start(me, 1, { ...later, threadId })
    const waiting = await me.start(waits)
    await me.pendingApproval(waiting.runId)
    const named = await me.start([], {
      ...later,
      plan: { name: "other", steps: [{ tool: "low.read", arguments: {}, onError: 1 }] },
    })
    const queued = await me.start(waits, later)
    const time = (run: Run, ms: number) => {
      if (run.createTime === undefined) throw new Error("no time")
      return timestampFromDate(new Date(timestampDate(run.createTime).getTime() + ms))
    }
    const count = async (filter: object) =>
      Number((await me.cancel({ ...filter, dryRun: true })).matchedCount)
    expect(await count({})).toBe(4)
    expect(await count({ threadId })).toBe(1)
    expect(await count({ planName: "other" })).toBe(1)
    expect(await count({ states: [RunState.REQUIRES_ACTION] })).toBe(1)
    expect(await count({ states: [RunState.QUEUED] })).toBe(3)
    expect(await count({ actorId: me.requesterId })).toBe(4)
    expect(await count({ actorId: newId() })).toBe(0)
    expect(await count({ startedAfter: time(queued, 5) })).toBe(0)
    expect(await count({ startedBefore: time(queued, 5) })).toBe(4)
    const both = await me.cancel({ states: [RunState.QUEUED], planName: "other" })
    expect(both.runIds).toEqual([named.runId])
    expect(await stateOf(me, queued.runId)).toBe(RunState.QUEUED)
    expect(await stateOf(me, inThread?.runId ?? "")).toBe(RunState.QUEUED)
  })

  it("answers the same request the same, and leaves alone what was started since", async () => {
    const me = asAdmin()
    const requestId = newId()
    const runs = await start(me, 3)
    const first = await me.cancel({}, requestId)
    expect(first.runIds).toHaveLength(runs.length)
    const [since] = await start(me, 1)
    expect(await me.cancel({}, requestId)).toEqual(first)
    expect(await stateOf(me, since?.runId ?? "")).toBe(RunState.QUEUED)
    const conflict = await me.cancel({ planName: "x" }, requestId).catch((error) => error)
    expect(reasonOf(conflict)).toBe("REQUEST_ID_CONFLICT")
  })

  it("goes along with ends, answers and cancels of the same moment", async () => {
    const me = asAdmin()
    const runs = await Promise.all(Array.from({ length: 30 }, () => me.start(waits)))
    const approvals = await Promise.all(runs.map(({ runId }) => me.pendingApproval(runId)))
    const racing = approvals.map((approval, index) =>
      index % 3 === 0
        ? me.decide(approval).catch(() => {})
        : index % 3 === 1
          ? me.cancel({ planName: "test" })
          : orchestrator.runs
              .cancelRun(
                { workspaceId: me.workspaceId, runId: approval.runId, requestId: newId() },
                me.requester,
              )
              .catch(() => {}),
    )
    await Promise.all(racing)
    await me.cancel()
    for (const { runId } of runs) {
      const ended = await until(async () => {
        const run = await me.get(runId)
        return run.endTime !== undefined && run
      })
      expect([RunState.CANCELLED, RunState.SUCCEEDED]).toContain(ended.state)
    }
  })

  it("is for admins", async () => {
    const me = asAdmin()
    const request = { workspaceId: me.workspaceId, requestId: newId() }
    const denied = await orchestrator.bulk.bulkCancelRuns(request, me.approver).catch((e) => e)
    expect(reasonOf(denied)).toBe("ROLE_TOO_LOW")
  })
})
