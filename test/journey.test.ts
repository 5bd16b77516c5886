// The main job, one body over the three transports of the seam: direct calls, gRPC between ports,
// and the gateway's edge. What holds over one holds over all.
import { type DescService, fromJson, type JsonObject } from "@bufbuild/protobuf"
import { type Client, ConnectError, createContextValues, type Transport } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { ApprovalState } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { PlanStep } from "../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { type Run, RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type ToolCall, ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectState } from "../gen/runwarden/projects/v1/project_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { CitationSchema } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import { CitationVerdict, SearchService } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { MetricsService } from "../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { reasonOf } from "../mesh/errors.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { memberSubject, type ServiceName, subjectKey } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { createLocalTransport } from "../mesh/local-transport.ts"
import { testRuntime, until } from "../mesh/testing.ts"
import { startTestMesh, type TestMember, type TestMesh, type TestWorkspace } from "./mesh.ts"

type Way = "local" | "grpc" | "edge"

/** Which service serves a proto package. */
function ownerOf(service: DescService): ServiceName {
  return service.typeName.split(".")[1] as ServiceName
}

describe.each<Way>(["local", "grpc", "edge"])("the journey over %s", (way) => {
  let mesh: TestMesh
  let workspace: TestWorkspace
  const closing = new AsyncDisposableStack()

  beforeAll(async () => {
    mesh = closing.use(await startTestMesh({ wire: way === "local" ? "local" : "grpc" }))
    workspace = await mesh.addWorkspace()
  })
  afterAll(() => closing.disposeAsync())

  /** A client as a member, by the way under test. */
  function client<S extends DescService>(service: S, member: TestMember): Client<S> {
    if (way === "edge") return mesh.client(service, member)
    const gateway = testRuntime("gateway")
    const transport =
      way === "local"
        ? createLocalTransport(mesh.mesh.target(ownerOf(service)), gateway)
        : closing.use(
            createGrpcTransport(mesh.mesh.address(ownerOf(service)), gateway, ownerOf(service)),
          )
    return createMeshClient(service, asMember(transport, workspace.workspaceId, member))
  }

  function start(
    name: string,
    steps: readonly Pick<PlanStep, "tool" | "arguments">[],
    member = workspace.member,
  ): Promise<Run> {
    return client(RunService, member)
      .startRun({
        workspaceId: workspace.workspaceId,
        requestId: newId(),
        plan: { name, steps: steps.map((step) => ({ ...step })) },
      })
      .then(({ run }) => present(run))
  }

  const moving: readonly RunState[] = [RunState.QUEUED, RunState.RUNNING]

  /** Waits until the run has ended or waits for a person. */
  async function rest(runId: string, alsoMoving: readonly RunState[] = []): Promise<Run> {
    const runs = client(RunService, workspace.viewer)
    return until(async () => {
      const { run } = await runs.getRun({ workspaceId: workspace.workspaceId, runId })
      if (run === undefined) return undefined
      return [...moving, ...alsoMoving].includes(run.state) ? undefined : run
    })
  }

  /** Waits until a run that waited for a person has ended. */
  function end(runId: string): Promise<Run> {
    return rest(runId, [RunState.REQUIRES_ACTION])
  }

  async function calls(runId: string): Promise<readonly ToolCall[]> {
    const { workspaceId, viewer } = workspace
    const service = client(ToolCallService, viewer)
    const { toolCalls } = await service.listToolCalls({ workspaceId, runId })
    return Promise.all(
      toolCalls.map(async ({ toolCallId }) =>
        present((await service.getToolCall({ workspaceId, toolCallId })).toolCall),
      ),
    )
  }

  async function setUpProject(name: string): Promise<string> {
    const { runId } = await start(name, [
      { tool: "project.create", arguments: { name } },
      {
        tool: "projects/project.transition",
        arguments: { project_id: { $from: 0, path: "/project_id" }, state: "active" },
      },
      {
        tool: "document.create",
        arguments: {
          project_id: { $from: 0, path: "/project_id" },
          title: `Charter of ${name}`,
          content: `# Charter\n\nThe expedition ${name} maps the harbour of Zanzibar.\n`,
        },
      },
    ])
    const run = await rest(runId)
    expect(run).toMatchObject({ state: RunState.SUCCEEDED, reason: "" })
    return resultOf((await calls(runId))[0]).project_id as string
  }

  test("a run creates a project, moves it and files a document that can be found", async () => {
    const projectId = await setUpProject("Halcyon")
    const { workspaceId, viewer } = workspace
    const { project } = await client(ProjectService, viewer).getProject({ workspaceId, projectId })
    expect(project).toMatchObject({ name: "Halcyon", state: ProjectState.ACTIVE })
    const { documents } = await client(DocumentService, viewer).listDocuments({
      workspaceId,
      projectId,
    })
    expect(documents.map((document) => document.title)).toEqual(["Charter of Halcyon"])
    const passages = await until(async () => {
      const found = await client(SearchService, viewer).search({
        workspaceId,
        query: "harbour of Zanzibar Halcyon",
      })
      return found.passages.length > 0 ? found.passages : undefined
    })
    expect(passages[0]?.citation?.documentId).toBe(documents[0]?.documentId)
  })

  test("blocked arguments end the run with policy_denied, and nothing happens", async () => {
    const { workspaceId, viewer } = workspace
    const secret = `-----BEGIN ${"PRIVATE"} KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END ${"PRIVATE"} KEY-----`
    const { runId } = await start("leak", [
      { tool: "document.create", arguments: { title: "Leaked", content: secret } },
      { tool: "project.create", arguments: { name: "Never" } },
    ])
    const run = await rest(runId)
    expect(run).toMatchObject({
      state: RunState.FAILED,
      reason: "policy_denied",
      moderationOutcome: Verdict.BLOCKED,
    })
    expect(run.policyDenial?.matchedRules.length).toBeGreaterThan(0)
    expect(run.policyDenial).toMatchObject({ verdict: "blocked", approvable: false })
    const [denied, second] = await calls(runId)
    expect(denied).toMatchObject({ state: ToolCallState.DENIED, reason: "policy_denied" })
    expect(second?.state).toBe(ToolCallState.CANCELLED)
    const { documents } = await client(DocumentService, viewer).listDocuments({ workspaceId })
    expect(documents.map((document) => document.title)).not.toContain("Leaked")
  })

  test("a run searches, files what it found and cites it; the citation is verified", async () => {
    await setUpProject("Meridian")
    const { workspaceId, viewer } = workspace
    await until(async () => {
      const { passages } = await client(SearchService, viewer).search({
        workspaceId,
        query: "Meridian harbour",
      })
      return passages.some((passage) => passage.citation?.text.includes("Meridian"))
    })
    const { runId } = await start("cite", [
      { tool: "document.search", arguments: { query: "Meridian harbour", limit: 2 } },
      {
        tool: "document.create",
        arguments: {
          title: "What we found",
          content: { $from: 0, path: "/passages/0/citation/text" },
          metadata: { citation: { $from: 0, path: "/passages/0/citation" } },
        },
      },
    ])
    expect((await rest(runId)).state).toBe(RunState.SUCCEEDED)
    const [search, filed] = await calls(runId)
    expect(filed?.provenance).toEqual([0])
    const passages = resultOf(search).passages as { citation: JsonObject }[]
    const { verdict } = await client(SearchService, viewer).verifyCitation({
      workspaceId,
      citation: fromJson(CitationSchema, present(passages[0]).citation),
    })
    expect(verdict).toBe(CitationVerdict.VERIFIED)
  })

  test("a high-risk call waits, is confirmed by another person, and runs once", async () => {
    const { workspaceId, viewer, approver, member } = workspace
    const projectId = await setUpProject("Risky")
    const { runId } = await start("archive", [
      { tool: "project.archive", arguments: { project_id: projectId } },
    ])
    expect((await rest(runId)).state).toBe(RunState.REQUIRES_ACTION)
    const { approvals } = await client(ApprovalService, viewer).listApprovals({
      workspaceId,
      runId,
    })
    const approval = present(approvals[0])
    const answer = {
      workspaceId,
      approvalId: approval.approvalId,
      digest: approval.digest,
      answer: Answer.APPROVE,
    }
    await expect(
      client(ApprovalService, member).decide({ ...answer, requestId: newId() }),
    ).rejects.toSatisfy((error) => reasonOf(error) === "ROLE_TOO_LOW")
    await client(ApprovalService, approver).decide({ ...answer, requestId: newId() })
    expect((await end(runId)).state).toBe(RunState.SUCCEEDED)
    const { project } = await client(ProjectService, viewer).getProject({ workspaceId, projectId })
    expect(project?.state).toBe(ProjectState.ARCHIVED)
    const { approval: used } = await client(ApprovalService, viewer).getApproval({
      workspaceId,
      approvalId: approval.approvalId,
    })
    expect(used?.state).toBe(ApprovalState.APPROVED)
    expect(used?.consumeTime).toBeDefined()
  })

  test("a rejected call does not run", async () => {
    const { workspaceId, viewer, approver } = workspace
    const projectId = await setUpProject("Spared")
    const { runId } = await start("archive", [
      { tool: "project.archive", arguments: { project_id: projectId } },
    ])
    await rest(runId)
    const { approvals } = await client(ApprovalService, viewer).listApprovals({
      workspaceId,
      runId,
    })
    const approval = present(approvals[0])
    await client(ApprovalService, approver).decide({
      workspaceId,
      requestId: newId(),
      approvalId: approval.approvalId,
      digest: approval.digest,
      answer: Answer.REJECT,
      comment: "Not yet.",
    })
    expect(await end(runId)).toMatchObject({ state: RunState.FAILED, reason: "approval_rejected" })
    const { project } = await client(ProjectService, viewer).getProject({ workspaceId, projectId })
    expect(project?.state).toBe(ProjectState.ACTIVE)
  })

  test("an unknown tool and broken arguments are refused by field, and nothing is stored", async () => {
    const { workspaceId, viewer } = workspace
    const before = await client(RunService, viewer).listRuns({ workspaceId, pageSize: 200 })
    const unknown = await start("x", [{ tool: "project.explode", arguments: {} }]).catch(error)
    expect(reasonOf(unknown)).toBe("UNKNOWN_TOOL")
    expect(String(unknown)).toContain("project.explode")
    const broken = await start("x", [{ tool: "project.create", arguments: { nam: 1 } }]).catch(
      error,
    )
    expect(reasonOf(broken)).toBe("TOOL_ARGUMENTS_INVALID")
    const after = await client(RunService, viewer).listRuns({ workspaceId, pageSize: 200 })
    expect(after.runs).toHaveLength(before.runs.length)
  })

  test("the history can be watched from any point, live, and ends with the run", async () => {
    const { workspaceId, viewer } = workspace
    const { runId } = await start("watched", [{ tool: "project.list", arguments: {} }])
    const sequences: bigint[] = []
    for await (const { event } of client(RunService, viewer).watchRun({ workspaceId, runId })) {
      sequences.push(event?.sequence ?? 0n)
    }
    expect(sequences.length).toBeGreaterThan(3)
    expect(sequences).toEqual(sequences.map((_, index) => BigInt(index + 1)))
    const later: bigint[] = []
    const from = { workspaceId, runId, afterSequence: 2n }
    for await (const { event } of client(RunService, viewer).watchRun(from)) {
      later.push(event?.sequence ?? 0n)
    }
    expect(later).toEqual(sequences.slice(2))
  })

  test("the metrics count what happened", async () => {
    const { workspaceId, viewer } = workspace
    const metrics = await until(async () => {
      const answer = await client(MetricsService, viewer).getMetrics({ workspaceId })
      return answer.metrics?.moderationBlockedCount === 1 ? answer.metrics : undefined
    })
    expect(metrics.moderationBlockRate).toBeGreaterThan(0)
    expect(metrics.moderationBlockRate).toBeLessThan(0.2)
  })
})

/** A transport whose every call is for this member. */
function asMember(inner: Transport, workspaceId: string, member: TestMember): Transport {
  const values = () =>
    createContextValues().set(subjectKey, memberSubject(workspaceId, member.actorId, member.role))
  return {
    unary: (method, signal, timeoutMs, header, input) =>
      inner.unary(method, signal, timeoutMs ?? 10_000, header, input, values()),
    stream: (method, signal, timeoutMs, header, input) =>
      inner.stream(method, signal, timeoutMs, header, input, values()),
  }
}

function resultOf(call: ToolCall | undefined): Record<string, unknown> {
  if (call?.outcome.case !== "result") throw new Error("the call has no result")
  return call.outcome.value
}

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("absent")
  return value
}

function error(caught: unknown): ConnectError {
  return ConnectError.from(caught)
}
