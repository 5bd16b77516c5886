// What comes too late: a second request under one id, an etag that is stale, a step that the state
// does not allow. Each is refused by name, and changes nothing.
import { create, type DescMethod, type Message, toJson } from "@bufbuild/protobuf"
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ErrorReason } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import { MembershipService } from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { IdKind, Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { ProjectState, ProjectStateSchema } from "../gen/runwarden/projects/v1/project_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { Effect } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { connect } from "../mesh/database.ts"
import { metadataOf, reasonOf } from "../mesh/errors.ts"
import { definition, FakeProvider } from "../mesh/fixtures/fake-provider.ts"
import { createGrpcServer } from "../mesh/grpc-server.ts"
import { createVerifier } from "../mesh/hop-tokens.ts"
import type { ServiceName } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testKeys, testRuntime, until } from "../mesh/testing.ts"
import { providersEnvironment } from "../services/local/local.ts"
import { fieldName, idFields, loadServices, publicMethods, shortName } from "./descriptors.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"
import { type Population, populate, snapshot } from "./population.ts"
import { sampleRequest } from "./sample-requests.ts"

const methods = publicMethods(await loadServices())
const named = methods.map((method) => [shortName(method), method] as const)
const stack = new AsyncDisposableStack()
let mesh: TestMesh
let ours: TestWorkspace
let own: Population

beforeAll(async () => {
  const provider = new FakeProvider()
  provider.tools = [definition("pay", { effect: Effect.UNSAFE })]
  provider.answer = () => {
    throw new Error("the answer is lost")
  }
  const name = "cashier" as ServiceName
  const runtime = { ...testRuntime("projects"), verifier: createVerifier(name, testKeys.trusted) }
  const server = stack.use(
    createGrpcServer({ routes: [provider.route()], runtime }, { listen: "127.0.0.1:0" }),
  )
  const { port } = await server.start()
  mesh = stack.use(
    await startTestMesh({
      env: {
        TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE_MIN_SAMPLE: "1",
        TELEMETRY_ALERT_DEBOUNCE_MS: "10",
        ...providersEnvironment({ RUNWARDEN_PROVIDERS: `${name}=127.0.0.1:${port}` }),
      },
    }),
  )
  ours = await mesh.addWorkspace()
  own = await populate(mesh, ours)
}, 60_000)
afterAll(() => stack.disposeAsync())

describe("one request id", () => {
  const mutations = named.filter(([, { input }]) => input.field.requestId !== undefined)

  test.each(mutations)("%s: the same again, and another", async (_, method) => {
    const isEnd = /^(Remove|Delete|Archive|Cancel|Revoke|Decide|BreakGlass|Settle|Release)/.test(
      method.name,
    )
    const workspace = isEnd ? await mesh.addWorkspace() : ours
    const population = isEnd ? await populate(mesh, workspace) : own
    if (method.name === "SettleToolCall") {
      const { toolCallId } = await unknownOutcome(workspace)
      Object.assign(population, { tool_call_id: toolCallId })
    }
    if (method.name === "ReleaseRun") await setAside(workspace, population.run_id ?? "")
    const request = sampleRequest(method, workspace.workspaceId, population)
    const first = await call(method, request, workspace)
    expect(first.reason).toBeUndefined()
    const again = await call(method, request, workspace)
    // The secret of a key is told once; everything else is answered as it was.
    delete first.answer.secret
    delete again.answer.secret
    expect(again).toEqual(first)
    const before = await calmSnapshot(workspace)
    const other = await call(method, another(method, request), workspace)
    expect(other).toMatchObject({
      reason: "REQUEST_ID_CONFLICT",
      metadata: { request_id: (request as Message & { requestId: string }).requestId },
    })
    expect(await snapshot(mesh, workspace)).toEqual(before)
  })

  test("serves one RPC only", async () => {
    const { workspaceId } = ours
    const projects = mesh.client(ProjectService, ours.admin)
    const requestId = newId()
    const { project } = await projects.createProject({ workspaceId, requestId, name: "One" })
    const projectId = project?.projectId ?? ""
    const archived = await projects
      .archiveProject({ workspaceId, requestId, projectId })
      .catch(reasonOf)
    expect(archived).toBe("REQUEST_ID_CONFLICT")
    const found = await projects.getProject({ workspaceId, projectId })
    expect(found.project?.state).toBe(ProjectState.DRAFT)
  })

  test("serves one RPC only, also where the bodies are the same", async () => {
    const { workspaceId } = ours
    const members = mesh.client(MembershipService, ours.admin)
    const { member } = await members.addMember({
      workspaceId,
      requestId: newId(),
      displayName: "Brief",
      role: Role.VIEWER,
      kind: 1,
    })
    const body = { workspaceId, requestId: newId(), actorId: member?.actorId ?? "" }
    await members.removeMember(body)
    expect(await members.updateMember(body).catch(reasonOf)).toBe("REQUEST_ID_CONFLICT")
  })
})

describe("a stale etag", () => {
  const guarded = named.filter(([, { input }]) => input.field.etag !== undefined)

  test("is taken by every change of what has one", () => {
    expect(guarded.map(([name]) => name).sort()).toEqual([
      "AlertService/AcknowledgeAlert",
      "ApprovalRuleService/ActivateApprovalRuleVersion",
      "BudgetService/SetBudget",
      "DocumentService/DeleteDocument",
      "DocumentService/UpdateDocument",
      "MembershipService/RemoveMember",
      "MembershipService/UpdateMember",
      "PolicyService/ActivatePolicyVersion",
      "ProjectService/ArchiveProject",
      "ProjectService/TransitionProject",
      "ProjectService/UpdateProject",
      "ProviderService/UpdateProvider",
      "RegistryService/RollBackTool",
      "RunService/CancelRun",
    ])
  })

  test.each(guarded)("%s", async (_, method) => {
    const request = sampleRequest(method, ours.workspaceId, own)
    reflect(method.input, request).set(method.input.field.etag as never, "stale")
    const before = await snapshot(mesh, ours)
    const answer = await call(method, request, ours)
    expect(answer.reason).toBe("ETAG_MISMATCH")
    expect(Object.keys(answer.metadata).sort()).toEqual(["id", "resource"])
    expect(await snapshot(mesh, ours)).toEqual(before)
  })
})

describe("a step that the state does not allow names the states", () => {
  test("of a project, from every state to every other", async () => {
    const { workspaceId } = ours
    const projects = mesh.client(ProjectService, ours.admin)
    const ways: readonly (readonly ProjectState[])[] = [
      [],
      [ProjectState.ACTIVE],
      [ProjectState.ACTIVE, ProjectState.ON_HOLD],
      [ProjectState.ACTIVE, ProjectState.COMPLETED],
    ]
    for (const way of ways) {
      const { project } = await projects.createProject({
        workspaceId,
        requestId: newId(),
        name: "States",
      })
      const projectId = project?.projectId ?? ""
      const step = (state: ProjectState) =>
        projects.transitionProject({ workspaceId, requestId: newId(), projectId, state })
      for (const state of way) await step(state)
      const current = way.at(-1) ?? ProjectState.DRAFT
      const error = await step(current).catch((caught: unknown) => caught)
      expect(["ILLEGAL_TRANSITION", "INVALID_REQUEST"]).toContain(reasonOf(error))
      if (reasonOf(error) === "ILLEGAL_TRANSITION") {
        expect(metadataOf(error)).toMatchObject({
          resource: "project",
          current: stateName(current),
          requested: stateName(current),
        })
      }
      const after = await projects.getProject({ workspaceId, projectId })
      expect(after.project?.state).toBe(current)
    }
  })

  test("of an archived project: nothing leads out of it", async () => {
    const { workspaceId } = ours
    const projects = mesh.client(ProjectService, ours.admin)
    const at = () => ({ workspaceId, requestId: newId() })
    const { project } = await projects.createProject({ ...at(), name: "Gone" })
    const projectId = project?.projectId ?? ""
    await projects.archiveProject({ ...at(), projectId })
    const error = await projects
      .transitionProject({ ...at(), projectId, state: ProjectState.ACTIVE })
      .catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toEqual({
      resource: "project",
      current: "archived",
      requested: "active",
      allowed: "",
    })
  })

  test("of a run that has ended", async () => {
    const { workspaceId } = ours
    const runs = mesh.client(RunService, ours.admin)
    const { run } = await runs.startRun({
      workspaceId,
      requestId: newId(),
      plan: { name: "list", steps: [{ tool: "project.list", arguments: {} }] },
    })
    const runId = run?.runId ?? ""
    await until(async () => {
      const found = await runs.getRun({ workspaceId, runId })
      return found.run?.state === RunState.SUCCEEDED
    })
    const error = await runs
      .cancelRun({ workspaceId, requestId: newId(), runId })
      .catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toEqual({
      resource: "run",
      current: "succeeded",
      requested: "cancelled",
      allowed: "",
    })
    const after = await runs.getRun({ workspaceId, runId })
    expect(after.run?.state).toBe(RunState.SUCCEEDED)
  })

  test("of an approval that was answered, of its call and its run", async () => {
    const workspace = await mesh.addWorkspace()
    const population = await populate(mesh, workspace)
    const { workspaceId } = workspace
    const approvals = mesh.client(ApprovalService, workspace.admin)
    const { approval_id: approvalId, digest, tool_call_id: toolCallId } = population
    const decide = (answer: Answer, given = digest) =>
      approvals.decide({ workspaceId, requestId: newId(), approvalId, digest: given, answer })
    const changed = await decide(Answer.APPROVE, "0".repeat(64)).catch(reasonOf)
    expect(changed).toBe("APPROVAL_CONTENT_CHANGED")
    await decide(Answer.APPROVE)
    const error = await decide(Answer.REJECT).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("APPROVAL_NOT_PENDING")
    expect(metadataOf(error)).toEqual({ approval_id: approvalId, state: "approved" })
    const calls = mesh.client(ToolCallService, workspace.admin)
    await until(async () => {
      const { toolCall } = await calls.getToolCall({ workspaceId, toolCallId })
      return toolCall?.state === ToolCallState.SUCCEEDED
    })
    const settled = await calls
      .settleToolCall({
        workspaceId,
        requestId: newId(),
        toolCallId,
        outcome: { case: "error", value: { reason: "no", message: "It failed." } },
      })
      .catch((caught: unknown) => caught)
    expect(reasonOf(settled)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(settled)).toMatchObject({ current: "succeeded", requested: "failed" })
  })

  test("of a call that was settled", async () => {
    const { toolCallId } = await unknownOutcome(ours)
    const { workspaceId } = ours
    const calls = mesh.client(ToolCallService, ours.admin)
    const settle = (outcome: "result" | "error") =>
      calls.settleToolCall({
        workspaceId,
        requestId: newId(),
        toolCallId,
        outcome:
          outcome === "result"
            ? { case: "result", value: { ok: true } }
            : { case: "error", value: { reason: "no", message: "It failed." } },
      })
    await settle("result")
    const error = await settle("error").catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toMatchObject({
      resource: "tool_call",
      current: "succeeded",
      requested: "failed",
      allowed: "",
    })
    const { toolCall } = await calls.getToolCall({ workspaceId, toolCallId })
    expect(toolCall?.state).toBe(ToolCallState.SUCCEEDED)
  })
})

interface Called {
  readonly reason: string | undefined
  readonly metadata: Readonly<Record<string, string>>
  readonly answer: Record<string, unknown>
}

async function call(method: DescMethod, message: Message, as: TestWorkspace): Promise<Called> {
  const client = mesh.client(method.parent, as.admin) as unknown as Record<
    string,
    (request: Message) => Promise<Message>
  >
  try {
    const answer = await client[method.localName]?.(message)
    if (answer === undefined) throw new Error(`no ${method.localName}`)
    const json = toJson(method.output, answer) as Record<string, unknown>
    return { reason: undefined, metadata: {}, answer: json }
  } catch (error) {
    const reason = reasonOf(error)
    if (reason === undefined || !(reason in ErrorReason)) throw error
    return { reason, metadata: metadataOf(error), answer: {} }
  }
}

/** What a workspace holds once the runs in it have come to rest. */
async function calmSnapshot(workspace: TestWorkspace): Promise<object> {
  let last = ""
  return until(async () => {
    const found = await snapshot(mesh, workspace)
    const isCalm = JSON.stringify(found) === last
    last = JSON.stringify(found)
    if (!isCalm) await new Promise((resolve) => setTimeout(resolve, 200))
    return isCalm && found
  })
}

/** The request under the same id, but for something else. */
function another(method: DescMethod, request: Message): Message {
  const copy = create(method.input, request as never)
  const fields: ReflectMessage = reflect(method.input, copy)
  const id = idFields(method.input).find(
    (field) =>
      field.path.length === 1 &&
      field.kind !== IdKind.WORKSPACE &&
      !["request_id"].includes(fieldName(field)),
  )
  const leaf =
    id?.path[0] ?? method.input.fields.find(({ name }) => /(name|title|description)$/.test(name))
  if (method.name === "SetBudget") {
    fields.set(method.input.field.maxDailyToolCalls as never, 1)
    return copy
  }
  if (method.parent.name === "RegistryService") {
    fields.set(method.input.field.name as never, "projects/project.archive")
    return copy
  }
  if (method.parent.name === "ProviderService" && leaf !== undefined) {
    fields.set(leaf, "another")
    return copy
  }
  if (leaf === undefined) throw new Error(`${method.name} has nothing to change`)
  fields.set(leaf, /_version$/.test(leaf.name) ? "default@1" : newId())
  return copy
}

/** As if replicas had crashed over the run. */
async function setAside({ workspaceId }: TestWorkspace, runId: string): Promise<void> {
  await using worker = await connect(mesh.env.ORCHESTRATOR_WORKER_DATABASE_URL ?? "")
  await worker.query("select set_config('runwarden.workspace_ids', $1, false)", [
    `{${workspaceId}}`,
  ])
  await worker.query("update runs set reason = 'quarantined' where run_id = $1::uuid", [runId])
}

/** A call whose answer was lost, waiting to be settled. */
async function unknownOutcome(workspace: TestWorkspace): Promise<{ toolCallId: string }> {
  const { workspaceId, admin, member } = workspace
  const { run } = await mesh.client(RunService, member).startRun({
    workspaceId,
    requestId: newId(),
    plan: { name: "pay", steps: [{ tool: "cashier/pay", arguments: { text: "once" } }] },
  })
  const runId = run?.runId ?? ""
  return until(async () => {
    const { toolCalls } = await mesh
      .client(ToolCallService, admin)
      .listToolCalls({ workspaceId, runId })
    const [found] = toolCalls
    return found?.state === ToolCallState.OUTCOME_UNKNOWN && { toolCallId: found.toolCallId }
  })
}

function stateName(state: ProjectState): string {
  return ProjectStateSchema.value[state]?.localName.toLowerCase() ?? ""
}
