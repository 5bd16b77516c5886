/** Who tells telemetry of a workspace's journal when the replica that was about to has vanished. */
import { afterAll, beforeAll, expect, it } from "vitest"
import { type Connection, connect } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const leaseMs = 1_500
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

/** Peers of which telemetry answers nobody until the caller gives up. */
function withoutTelemetry() {
  const peers = createPeers()
  const batchRecordEvents: typeof peers.clients.telemetry.batchRecordEvents = async (
    _,
    { signal } = {},
  ) => {
    await until(() => signal?.aborted === true, { timeoutMs: 60_000 })
    throw new RunwardenError("CANCELLED", {})
  }
  const telemetry = Object.assign({}, peers.clients.telemetry, { batchRecordEvents })
  const clients = Object.assign({}, peers.clients, { telemetry })
  return Object.assign({}, peers, { clients })
}

it("is left alone no longer than a run would be, then another replica tells of it", async () => {
  const first = await startOrchestrator({
    peers: withoutTelemetry(),
    database,
    executor: { leaseMs },
  })
  const me = inWorkspace(first)
  const run = await me.start([{ tool: "low.read" }])
  const claim = await until(async () => {
    const [row] = await worker.query<{ readonly freeInMs: number }>(
      `select extract(epoch from free_time - now())::double precision * 1000 as "freeInMs"
       from journal_due where workspace_id = $1::uuid and owner is not null`,
      [me.workspaceId],
    )
    return row
  })
  expect(claim.freeInMs).toBeLessThanOrEqual(leaseMs)
  // What it has claimed stays claimed, as where it is killed.
  await first[Symbol.asyncDispose]()
  const peers = createPeers()
  await using _second = await startOrchestrator({ peers, database, executor: { leaseMs } })
  const told = () => peers.events.some(({ runId }) => runId === run.runId)
  // The lease, and the longest pause between two looks.
  await until(told, { timeoutMs: leaseMs + 20_000 })
}, 60_000)
