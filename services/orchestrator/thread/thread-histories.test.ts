/** Threads under any history of starts, cancels, expiries and crashes. */
import fc from "fast-check"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { BusyThreadPolicy } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
let database: Awaited<ReturnType<typeof testDatabase>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
})
afterAll(() => database[Symbol.asyncDispose]())

describe("any history of starts, cancels, expiries and crashes", () => {
  const operation = fc.record({
    kind: fc.constantFrom("start", "start", "start", "instead", "wait", "cancel", "crash"),
    tool: fc.constantFrom("low.keyed", "high.keyed", "low.read"),
    short: fc.boolean(),
    pick: fc.nat(50),
  })

  it("ends every run, one at a time, and leaves nobody in line", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 6, maxLength: 14 }), async (operations) => {
        let replica = await startOrchestrator({ peers, database, executor: { leaseMs: 600 } })
        const underWay = new Set<string>()
        const threadId = newId()
        const workspaceId = newId()
        let overlaps = 0
        peers.script.execute = async (request, { signal }) => {
          if (request.workspaceId !== workspaceId) return {}
          underWay.add(request.runId)
          if (underWay.size > 1) overlaps += 1
          await Promise.race([
            new Promise((resolve) => setTimeout(resolve, 15)),
            new Promise((resolve) => signal.addEventListener("abort", resolve)),
          ])
          underWay.delete(request.runId)
          return {}
        }
        const runs: string[] = []
        for (const { kind, tool, short, pick } of operations) {
          const me = inWorkspace(replica, workspaceId)
          const onBusyThread = kind === "instead" ? BusyThreadPolicy.CANCEL_OTHER : 0
          // What waits for a person ends by its deadline.
          const nanos = tool === "high.keyed" || short ? 250_000_000 : 0
          const timeout = nanos === 0 ? { seconds: 60n } : { nanos }
          if (kind === "start" || kind === "instead") {
            const run = await me.start([{ tool }, { tool }], { threadId, onBusyThread, timeout })
            runs.push(run.runId)
          }
          if (kind === "wait") await new Promise((resolve) => setTimeout(resolve, pick))
          const picked = runs[pick % Math.max(1, runs.length)]
          if (kind === "cancel" && picked !== undefined) await me.cancel(picked).catch(() => {})
          if (kind === "crash") {
            await replica[Symbol.asyncDispose]()
            replica = await startOrchestrator({ peers, database, executor: { leaseMs: 600 } })
          }
        }
        await using last = replica
        const me = inWorkspace(last, workspaceId)
        for (const runId of runs) {
          await until(async () => (await me.get(runId)).endTime !== undefined, {
            timeoutMs: 10_000,
          })
        }
        expect(overlaps).toBe(0)
        if (runs.length > 0) {
          const { thread } = await last.threads.getThread({ workspaceId, threadId }, me.requester)
          expect(thread).toMatchObject({ currentRunId: "", runCount: BigInt(runs.length) })
        }
      }),
      { numRuns: 12, seed: 20_261_122 },
    )
  }, 120_000)
})
