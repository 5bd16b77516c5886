/** What becomes of a call whose outcome is unknown when its provider comes back. */
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { type Connection, connect } from "../../../mesh/database.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"
import { askAgainAt } from "./next-move.ts"

const peers = createPeers()
let database: Awaited<ReturnType<typeof testDatabase>>
let worker: Connection

beforeAll(async () => {
  database = await testDatabase("orchestrator")
  worker = await connect(database.workerUrl)
})
afterAll(async () => {
  await worker[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

/** A run whose first call has got lost, as the ledger has it. */
async function lost(me: ReturnType<typeof inWorkspace>) {
  const { runId } = await me.start([
    { tool: "high.unsafe" },
    { tool: "low.keyed", arguments: { id: { $from: 0, path: "/id" } } },
  ])
  const approval = await me.pendingApproval(runId)
  const state: ExecutionState = ExecutionState.OUTCOME_UNKNOWN
  const row = { request: {} as never, state, outcome: undefined }
  peers.ledger.set(`${runId}/0`, row)
  await me.decide(approval)
  await until(async () => (await me.get(runId)).reason === "outcome_unknown")
  return { runId, row: peers.ledger.get(`${runId}/0`) ?? row }
}

const askNow = (runId: string) =>
  worker.query("update run_claims set due_time = now() where run_id = $1::uuid", [runId])

async function claimOf(runId: string) {
  const [row] = await worker.query<{
    epoch: number
    isOwned: boolean
    waitMs: number
    crashes: number
  }>(
    `select epoch::integer, owner is not null as "isOwned", crashes,
       extract(epoch from due_time - now())::double precision * 1000 as "waitMs"
     from run_claims where run_id = $1::uuid`,
    [runId],
  )
  return row
}

describe("a call whose outcome is unknown", () => {
  it("is settled by its provider, and its run goes on by itself", async () => {
    await using orchestrator = await startOrchestrator({ peers, database })
    const me = inWorkspace(orchestrator)
    const { runId, row } = await lost(me)
    row.state = ExecutionState.SUCCEEDED
    row.outcome = { case: "result", value: { id: "found" } }
    // Without a hand's turn: the first time is a few seconds after it got lost.
    await me.reaches(runId, RunState.SUCCEEDED, 12_000)
    const [call, next] = await me.callsOf(runId)
    expect(call).toMatchObject({ state: ToolCallState.SUCCEEDED, settlerId: "", attempts: 1 })
    expect(next?.arguments).toEqual({ id: "found" })
  }, 20_000)

  it("fails where the provider says that it never ran", async () => {
    await using orchestrator = await startOrchestrator({ peers, database })
    const me = inWorkspace(orchestrator)
    const { runId, row } = await lost(me)
    const metadata = { applied: "false" }
    row.state = ExecutionState.FAILED
    row.outcome = { case: "error", value: { reason: "not_executed", message: "", metadata } }
    await askNow(runId)
    expect((await me.reaches(runId, RunState.FAILED)).reason).toBe("tool_failed")
    const [call] = await me.callsOf(runId)
    expect(call?.outcome).toMatchObject({
      case: "error",
      value: { reason: "not_executed", metadata },
    })
  })

  it("waits on where nobody knows, or the ledger has no word of the provider's", async () => {
    await using orchestrator = await startOrchestrator({ peers, database })
    const me = inWorkspace(orchestrator)
    const { runId, row } = await lost(me)
    const { etag } = await me.get(runId)
    for (const isForgotten of [false, true]) {
      if (isForgotten) peers.ledger.delete(`${runId}/0`)
      const before = await claimOf(runId)
      await askNow(runId)
      const claim = await until(async () => {
        const now = await claimOf(runId)
        return now !== undefined && now.epoch > (before?.epoch ?? 0) && !now.isOwned && now
      })
      expect(claim.waitMs).toBeGreaterThan(4_000)
      expect(claim.crashes).toBe(0)
      expect((await me.get(runId)).etag).toBe(etag)
    }
    // A person may still say what became of it.
    peers.ledger.set(`${runId}/0`, row)
    const [call] = await me.callsOf(runId)
    await orchestrator.toolCalls.settleToolCall(
      {
        ...{
          workspaceId: me.workspaceId,
          toolCallId: call?.toolCallId ?? "",
          requestId: call?.toolCallId ?? "",
        },
        outcome: { case: "result", value: { id: "looked up" } },
      },
      me.approver,
    )
    await me.reaches(runId, RunState.SUCCEEDED)
  })
})

it("is asked about at longer and longer intervals, and never after the deadline", () => {
  const since = new Date(0)
  const deadline = new Date(86_400_000)
  const times: number[] = []
  for (let now = 0; now < deadline.getTime(); now = times.at(-1) ?? now) {
    times.push(askAgainAt(since, deadline, now).getTime())
  }
  expect(times.slice(0, 5)).toEqual([5_000, 10_000, 20_000, 40_000, 80_000])
  const waits = times.map((time, index) => time - (times[index - 1] ?? 0))
  expect(Math.max(...waits)).toBe(600_000)
  expect(times.at(-1)).toBe(86_400_000)
  expect(times.length).toBeLessThan(160)
})
