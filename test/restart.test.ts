// The whole mesh ends while a run waits for approval, and starts again on its data.
import { afterAll, beforeAll, expect, test } from "vitest"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ProjectState } from "../gen/runwarden/projects/v1/project_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let workspace: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh()
  workspace = await mesh.addWorkspace()
})
afterAll(() => mesh?.[Symbol.asyncDispose]())

test("a waiting approval survives a restart of everything, and the call runs once", async () => {
  const { workspaceId, member, approver, viewer } = workspace
  const { project } = await mesh
    .client(ProjectService, member)
    .createProject({ workspaceId, requestId: newId(), name: "Patient" })
  const projectId = project?.projectId ?? ""
  const { run } = await mesh.client(RunService, member).startRun({
    workspaceId,
    requestId: newId(),
    plan: {
      name: "archive",
      steps: [
        { tool: "project.archive", arguments: { project_id: projectId } },
        { tool: "project.get", arguments: { project_id: projectId } },
      ],
    },
  })
  const runId = run?.runId ?? ""
  const stateOf = async () =>
    (await mesh.client(RunService, viewer).getRun({ workspaceId, runId })).run?.state
  await until(async () => (await stateOf()) === RunState.REQUIRES_ACTION)

  await mesh.restart()

  expect(await stateOf()).toBe(RunState.REQUIRES_ACTION)
  const approvals = mesh.client(ApprovalService, approver)
  const { approvals: waiting } = await approvals.listApprovals({ workspaceId })
  expect(waiting).toHaveLength(1)
  await approvals.decide({
    workspaceId,
    requestId: newId(),
    approvalId: waiting[0]?.approvalId ?? "",
    digest: waiting[0]?.digest ?? "",
    answer: Answer.APPROVE,
  })
  await until(async () => (await stateOf()) === RunState.SUCCEEDED)
  const found = await mesh.client(ProjectService, viewer).getProject({ workspaceId, projectId })
  expect(found.project?.state).toBe(ProjectState.ARCHIVED)
})

test("an answer given before the restart is acted on after it", async () => {
  const { workspaceId, member, approver, viewer } = workspace
  const { project } = await mesh
    .client(ProjectService, member)
    .createProject({ workspaceId, requestId: newId(), name: "Interrupted" })
  const projectId = project?.projectId ?? ""
  const { run } = await mesh.client(RunService, member).startRun({
    workspaceId,
    requestId: newId(),
    plan: {
      name: "archive",
      steps: [{ tool: "project.archive", arguments: { project_id: projectId } }],
    },
  })
  const runId = run?.runId ?? ""
  const approvals = mesh.client(ApprovalService, approver)
  const [waiting] = await until(async () => {
    const found = await approvals.listApprovals({ workspaceId, runId })
    return found.approvals.length > 0 ? found.approvals : undefined
  })
  await approvals.decide({
    workspaceId,
    requestId: newId(),
    approvalId: waiting?.approvalId ?? "",
    digest: waiting?.digest ?? "",
    answer: Answer.APPROVE,
  })
  await mesh.restart()
  await until(
    async () => {
      const found = await mesh.client(RunService, viewer).getRun({ workspaceId, runId })
      return found.run?.state === RunState.SUCCEEDED
    },
    { timeoutMs: 20_000 },
  )
}, 40_000)
