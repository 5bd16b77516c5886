// One trace from the gateway to the provider, over both wires, by the names of the contract; and a
// run that waited goes on in a new trace that links to the first.
import { InMemorySpanExporter, type ReadableSpan } from "@opentelemetry/sdk-trace"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

describe.each(["local", "grpc"] as const)("traces over %s", (wire) => {
  const exporter = new InMemorySpanExporter()
  let mesh: TestMesh
  let workspace: TestWorkspace

  beforeAll(async () => {
    mesh = await startTestMesh({ wire, exporter })
    workspace = await mesh.addWorkspace()
  })
  afterAll(() => mesh?.[Symbol.asyncDispose]())

  function spansOf(traceId: string): ReadableSpan[] {
    return exporter.getFinishedSpans().filter((span) => span.spanContext().traceId === traceId)
  }

  async function run(name: string, tool: string, args: Record<string, string>) {
    const { workspaceId, member } = workspace
    const runs = mesh.client(RunService, member)
    const { run: started } = await runs.startRun({
      workspaceId,
      requestId: newId(),
      plan: { name, steps: [{ tool, arguments: args }] },
    })
    const runId = started?.runId ?? ""
    return until(async () => {
      const found = await runs.getRun({ workspaceId, runId })
      return found.run?.state === RunState.RUNNING ? undefined : found.run
    })
  }

  test("one trace leads from the edge to the provider, by the names of the contract", async () => {
    const secret = "Do-not-trace-me"
    const ended = await run("set-up", "project.create", { name: secret })
    expect(ended.state).toBe(RunState.SUCCEEDED)
    // Each service sends its spans on its own, some of them later than others; the last one to come
    // completes the picture.
    const all = await until(
      () => {
        const found = spansOf(ended.traceId)
        const services = new Set(found.map((span) => span.resource.attributes["service.name"]))
        const ids = new Set([undefined, ...found.map((span) => span.spanContext().spanId)])
        const isWhole = ["gateway", "orchestrator", "tools", "moderation", "projects"].every(
          (name) => services.has(`runwarden-${name}`),
        )
        const isJoined = found.every((span) => ids.has(span.parentSpanContext?.spanId))
        return isWhole && isJoined ? found : undefined
      },
      { timeoutMs: 20_000 },
    )
    const parentOf = (span: ReadableSpan | undefined) =>
      all.find((other) => other.spanContext().spanId === span?.parentSpanContext?.spanId)
    const workflow = all.find((span) => span.name === "invoke_workflow set-up")
    const call = all.find((span) => span.name.startsWith("execute_tool "))
    expect(call?.name).toBe("execute_tool projects/project.create")
    expect(parentOf(call)).toBe(workflow)
    expect(call?.attributes).toMatchObject({
      "gen_ai.operation.name": "execute_tool",
      "gen_ai.tool.name": "projects/project.create",
      "runwarden.workspace.id": workspace.workspaceId,
      "runwarden.run.id": ended.runId,
      "runwarden.tool.version": "1.0.0",
      "runwarden.verdict": "allowed",
      "runwarden.action": "execute",
    })
    const provider = all.find(
      (span) =>
        span.name === "runwarden.tools.v1.ToolProviderService/ExecuteTool" &&
        span.resource.attributes["service.name"] === "runwarden-projects",
    )
    const chain: (string | undefined)[] = []
    for (let at = provider; at !== undefined; at = parentOf(at)) chain.push(at.name)
    expect(chain).toContain("execute_tool projects/project.create")
    expect(chain).toContain("invoke_workflow set-up")
    expect(chain.at(-1)).toBe("runwarden.orchestrator.v1.RunService/StartRun")
    const everything = JSON.stringify(all.map((span) => [span.name, span.attributes, span.events]))
    expect(everything).not.toContain(secret)
    expect(everything).not.toContain("idempotency")
  }, 40_000)

  test("a run that waited is linked, not glued", async () => {
    const { workspaceId, approver, viewer } = workspace
    const waiting = await run("archive", "project.archive", { project_id: newId() })
    expect(waiting.state).toBe(RunState.REQUIRES_ACTION)
    const { approvals } = await mesh
      .client(ApprovalService, viewer)
      .listApprovals({ workspaceId, runId: waiting.runId })
    await mesh.client(ApprovalService, approver).decide({
      workspaceId,
      requestId: newId(),
      approvalId: approvals[0]?.approvalId ?? "",
      digest: approvals[0]?.digest ?? "",
      answer: Answer.APPROVE,
    })
    const second = await until(
      () =>
        exporter
          .getFinishedSpans()
          .find(
            (span) =>
              span.name === "invoke_workflow archive" &&
              span.spanContext().traceId !== waiting.traceId,
          ),
      { timeoutMs: 15_000 },
    )
    expect(second.links.map((link) => link.context.traceId)).toContain(waiting.traceId)
  }, 40_000)
})
