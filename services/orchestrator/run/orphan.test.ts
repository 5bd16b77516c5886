// What the tools service has sent and the runs know nothing of.
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { OrphanCause } from "../../../gen/runwarden/orchestrator/v1/orphan_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { inWorkspace, type Orchestrator, startOrchestrator } from "../orchestrator-harness.ts"

let orchestrator: Orchestrator

beforeAll(async () => {
  orchestrator = await startOrchestrator()
})
afterAll(() => orchestrator[Symbol.asyncDispose]())

test("a call that its run has sent is none; one of no run, or that was never sent, is", async () => {
  const { orphans, peers } = orchestrator
  const me = inWorkspace(orchestrator)
  const admin = actingAs(memberSubject(me.workspaceId, newId(), Role.ADMIN))
  const { runId } = await me.start([{ tool: "low.keyed" }, { tool: "high.keyed" }])
  await me.reaches(runId, RunState.REQUIRES_ACTION)
  const { workspaceId } = me
  expect((await orphans.listOrphans({ workspaceId }, admin)).orphans).toEqual([])
  const gone = newId()
  peers.script.strays = [
    { runId, stepIndex: 1 },
    { runId: gone, stepIndex: 0 },
  ]
  const { orphans: found } = await orphans.listOrphans({ workspaceId }, admin)
  expect(found).toMatchObject([
    { workspaceId, runId, stepIndex: 1, cause: OrphanCause.NOT_SENT },
    { workspaceId, runId: gone, stepIndex: 0, cause: OrphanCause.UNKNOWN_RUN },
  ])
})

test("only an admin is told", async () => {
  const me = inWorkspace(orchestrator)
  const { workspaceId, approver } = me
  const error = await orchestrator.orphans.listOrphans({ workspaceId }, approver).catch((e) => e)
  expect(reasonOf(error)).toBe("ROLE_TOO_LOW")
})
