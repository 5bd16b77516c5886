/** ThreadService: the threads of a workspace, and one of them. */
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

let orchestrator: Awaited<ReturnType<typeof startOrchestrator>>

beforeAll(async () => {
  orchestrator = await startOrchestrator()
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

const steps = [{ tool: "low.keyed" }]

describe("threads", () => {
  it("are listed, the last used first", async () => {
    const me = inWorkspace(orchestrator)
    const ids = [newId(), newId(), newId()]
    for (const threadId of ids) {
      const isBusy = threadId === ids[1]
      const run = await me.start(isBusy ? [{ tool: "high.keyed" }] : steps, { threadId })
      await me.reaches(run.runId, isBusy ? RunState.REQUIRES_ACTION : RunState.SUCCEEDED)
    }
    const { workspaceId, requester } = me
    const seen: string[] = []
    let pageToken = ""
    do {
      const page = { workspaceId, pageSize: 2, pageToken }
      const found = await orchestrator.threads.listThreads(page, requester)
      seen.push(...found.threads.map(({ threadId }) => threadId))
      pageToken = found.nextPageToken
    } while (pageToken !== "")
    expect(seen).toEqual(ids.toReversed())
    const busy = await orchestrator.threads.listThreads({ workspaceId, busyOnly: true }, requester)
    expect(busy.threads.map(({ threadId }) => threadId)).toEqual([ids[1]])
  })

  it("are found also where nobody has named them", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start(steps)
    await me.reaches(run.runId, RunState.SUCCEEDED)
    const request = { workspaceId: me.workspaceId, threadId: run.threadId }
    const { thread } = await orchestrator.threads.getThread(request, me.requester)
    expect(thread).toMatchObject({ currentRunId: "", runCount: 1n })
    const missing = { ...request, threadId: newId() }
    const error = await orchestrator.threads.getThread(missing, me.requester).catch((e) => e)
    expect(reasonOf(error)).toBe("NOT_FOUND")
  })
})
