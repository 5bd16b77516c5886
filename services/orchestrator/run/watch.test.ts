import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { RunEvent } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
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
  orchestrator = await startOrchestrator({ peers, watch: { maxWatchers: 4 } })
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

describe("WatchRun", () => {
  it("sends what was and what comes, in order and without gaps, until the run has ended", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }, { tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    const seen: RunEvent[] = []
    const watching = collect(orchestrator, me, run.runId, 0, seen)
    await until(() => seen.some(({ kind }) => kind.case === "approvalStateChanged"))
    await me.decide(approval)
    await watching
    expect(seen.map(({ sequence }) => Number(sequence))).toEqual(seen.map((_, i) => i + 1))
    expect(seen.at(0)?.kind.case).toBe("runStarted")
    expect(seen.at(-1)?.kind).toMatchObject({
      case: "runStateChanged",
      value: { state: RunState.SUCCEEDED },
    })
    expect(seen).toEqual(await me.history(run.runId))
    const resumed: RunEvent[] = []
    await collect(orchestrator, me, run.runId, 5, resumed)
    expect(resumed).toEqual(seen.slice(5))
  })

  it("follows a run that another replica carries out", async () => {
    await using other = await startOrchestrator({ peers, database: orchestrator.database })
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }])
    const approval = await me.pendingApproval(run.runId)
    const seen: RunEvent[] = []
    const watching = collect(other, me, run.runId, 0, seen)
    await me.decide(approval)
    await watching
    expect(seen).toEqual(await me.history(run.runId))
  })

  it("bounds its watchers, and frees the place of one that leaves", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "high.keyed" }])
    await me.pendingApproval(run.runId)
    const leaving = new AbortController()
    const seenBy: RunEvent[][] = [[], [], [], []]
    const places = seenBy.map((seen) =>
      collect(orchestrator, me, run.runId, 0, seen, leaving.signal).catch(
        (error: unknown) => error,
      ),
    )
    await until(() => seenBy.every((seen) => seen.length > 0))
    const error = await collect(orchestrator, me, run.runId, 0, []).catch((e: unknown) => e)
    expect(reasonOf(error)).toBe("LIMIT_EXCEEDED")
    expect(metadataOf(error)).toMatchObject({ limit: "watchers", maximum: "4" })
    leaving.abort()
    await Promise.all(places)
    const seen: RunEvent[] = []
    const watching = collect(orchestrator, me, run.runId, 0, seen)
    await until(() => seen.length > 0)
    await me.cancel(run.runId)
    await watching
  })

  it("does not know another workspace's run", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }])
    const stranger = inWorkspace(orchestrator)
    const error = await collect(orchestrator, stranger, run.runId, 0, []).catch((e: unknown) => e)
    expect(reasonOf(error)).toBe("NOT_FOUND")
  })
})

async function collect(
  from: Orchestrator,
  { workspaceId }: { readonly workspaceId: string },
  runId: string,
  after: number,
  into: RunEvent[],
  signal: AbortSignal = AbortSignal.timeout(10_000),
): Promise<void> {
  const viewer = actingAs(memberSubject(workspaceId, newId(), Role.VIEWER), {
    signal,
    timeoutMs: 0,
  })
  const request = { workspaceId, runId, afterSequence: BigInt(after) }
  for await (const { event } of from.runs.watchRun(request, viewer)) {
    if (event !== undefined) into.push(event)
  }
}
