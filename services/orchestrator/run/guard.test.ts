/** What the database itself refuses, tried as the application's own role. */
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Connection, connect } from "../../../mesh/database.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

let orchestrator: Orchestrator
let app: Connection
const peers = createPeers()

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers })
  app = await connect(orchestrator.database.appUrl)
})
afterAll(async () => {
  await app[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

describe("the database", () => {
  it("refuses to execute a call without its verdict", async () => {
    const scope = await waitingRun()
    const executing = "state = 'executing', arguments = '{}', arguments_digest = 'd1'"
    const check = "tool_calls_verdict_check"
    await refused(scope, 2, executing, check)
    await refused(scope, 2, "state = 'executing', verdict = 'allowed'", check)
    await refused(scope, 2, `${executing}, verdict = 'allowed'`, "tool_calls_verdict_fkey")
    await judged(scope, 2, "d1", "blocked")
    await refused(scope, 2, `${executing}, verdict = 'blocked'`, check)
    await refused(scope, 2, `${executing}, verdict = 'allowed'`, "tool_calls_verdict_fkey")
  })

  it("refuses to execute a risky or doubtful call without its used approval", async () => {
    const scope = await waitingRun()
    const { digest } = await scope.pendingApproval(scope.runId)
    await refused(scope, 0, "state = 'executing'", "tool_calls_approval_check")
    const used = (name: string) => `approval_digest = '${name}', approval_consumed = true`
    await refused(scope, 0, `state = 'executing', ${used(digest)}`, "tool_calls_approval_fkey")
    await refused(scope, 0, `state = 'executing', ${used("other")}`, "tool_calls_approval_fkey")
    await judged(scope, 1, "d1", "flagged")
    const doubtful =
      "state = 'executing', arguments = '{}', arguments_digest = 'd1', verdict = 'flagged'"
    await refused(scope, 1, doubtful, "tool_calls_approval_check")
    await inTenant(scope, async () => {
      const pending = app.query("update approvals set consume_time = now() where run_id = $1", [
        scope.runId,
      ])
      await expect(pending).rejects.toThrow(/approvals_consumed_check/)
    })
  })

  it("refuses to change what a call is, or what was asked", async () => {
    const scope = await waitingRun()
    for (const change of ["risk_class = 'low'", "effect = 'read'", "tool = 'other/tool'"]) {
      await refused(scope, 0, change, "permission denied")
    }
    await inTenant(scope, async () => {
      const changed = app.query("update approvals set arguments = '{}' where run_id = $1", [
        scope.runId,
      ])
      await expect(changed).rejects.toThrow(/permission denied/)
    })
  })

  it("refuses to change a state that is final", async () => {
    const me = inWorkspace(orchestrator)
    const run = await me.start([{ tool: "low.keyed" }])
    await me.reaches(run.runId, RunState.SUCCEEDED)
    const it = { ...me, runId: run.runId }
    await refused(it, 0, "state = 'failed'", "cannot become failed")
    await inTenant(it, async () => {
      const revived = app.query(
        "update runs set state = 'running', end_time = null where run_id = $1",
        [run.runId],
      )
      await expect(revived).rejects.toThrow(/cannot become running/)
    })
  })

  it("shows and changes nothing of another workspace", async () => {
    const me = await waitingRun()
    const stranger = { ...inWorkspace(orchestrator), runId: me.runId }
    const tables = ["runs", "tool_calls", "approvals", "verdicts", "journal", "run_claims"]
    await inTenant(stranger, async () => {
      for (const table of tables) {
        const rows = await app.query(`select 1 from ${table} where run_id = $1`, [me.runId])
        expect(rows).toEqual([])
      }
      const stolen = await app.query("update runs set reason = 'x' where run_id = $1 returning 1", [
        me.runId,
      ])
      expect(stolen).toEqual([])
    })
  })
})

async function waitingRun() {
  const me = inWorkspace(orchestrator)
  const { runId } = await me.start([
    { tool: "high.keyed", arguments: { a: 1 } },
    { tool: "low.keyed" },
    { tool: "low.read" },
  ])
  await me.pendingApproval(runId)
  return { ...me, runId }
}

interface Scope {
  readonly workspaceId: string
  readonly runId: string
}

async function inTenant({ workspaceId }: Scope, work: () => Promise<void>): Promise<void> {
  await app.query("begin")
  try {
    await app.query("select set_config('runwarden.workspace_id', $1, true)", [workspaceId])
    await work()
  } finally {
    await app.query("rollback")
  }
}

/** Tries a change of a call of the run; what stops it is what counts. */
function refused(scope: Scope, stepIndex: number, change: string, by: string): Promise<void> {
  return inTenant(scope, async () => {
    const tried = app.query(
      `update tool_calls set ${change} where run_id = $1 and step_index = $2`,
      [scope.runId, stepIndex],
    )
    await expect(tried).rejects.toThrow(by)
  })
}

/** Stores a verdict on some arguments of a call of the run. */
async function judged(scope: Scope, step: number, digest: string, verdict: string) {
  await app.query("begin")
  await app.query("select set_config('runwarden.workspace_id', $1, true)", [scope.workspaceId])
  await app.query(
    `insert into verdicts
       (workspace_id, run_id, step_index, digest, verdict, decision_id, policy_version)
     values ($1, $2, $3, $4, $5, '', '')`,
    [scope.workspaceId, scope.runId, step, digest, verdict],
  )
  await app.query("commit")
}
