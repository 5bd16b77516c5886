import { randomBytes } from "node:crypto"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import { Answer } from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
let database: Database
const peers = createPeers()

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
  const migrations = join(import.meta.dirname, "../migrations")
  const runtime = testRuntime("orchestrator")
  database = openDatabase(orchestrator.database, { runtime, migrations })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

const large = { text: randomBytes(20_000).toString("base64") }
type Me = ReturnType<typeof inWorkspace>

it.each([
  ["a cancel", cancelled],
  ["an answer to an approval", answered],
  ["the settling of a call", settled],
] as const)(
  "%s is told again as it was, and kept without what is stored elsewhere",
  async (_, ask) => {
    const me = inWorkspace(orchestrator)
    const send = await ask(me)
    const first = await send()
    expect(
      JSON.stringify(first, (__, value) => (typeof value === "bigint" ? `${value}` : value)),
    ).toContain(large.text)
    const bytes = await database.tenant(me.workspaceId, (tx) =>
      tx.one<{ readonly most: number }>("select max(octet_length(response)) as most from requests"),
    )
    expect(bytes.most).toBeLessThan(2_500)
    expect(await send()).toEqual(first)
  },
)

async function cancelled(me: Me) {
  const { runId } = await me.start([{ tool: "high.keyed", arguments: large }])
  await me.pendingApproval(runId)
  const request = { workspaceId: me.workspaceId, runId, requestId: newId() }
  return () => orchestrator.runs.cancelRun(request, me.requester)
}

async function answered(me: Me) {
  const { runId } = await me.start([{ tool: "high.keyed", arguments: large }])
  const { approvalId, digest } = await me.pendingApproval(runId)
  const { workspaceId } = me
  const request = { workspaceId, approvalId, digest, requestId: newId(), answer: Answer.REJECT }
  return () => orchestrator.approvals.decide(request, me.approver)
}

async function settled(me: Me) {
  peers.script.execute = () => new Promise(() => {})
  const { runId } = await me.start([{ tool: "low.unsafe", arguments: large, timeoutMs: 300 }])
  await me.reaches(runId, RunState.REQUIRES_ACTION)
  const [call] = await me.callsOf(runId)
  const toolCallId = call?.toolCallId ?? ""
  const request = {
    ...{ workspaceId: me.workspaceId, toolCallId, requestId: newId() },
    outcome: { case: "result" as const, value: large },
  }
  return () => orchestrator.toolCalls.settleToolCall(request, me.approver)
}
