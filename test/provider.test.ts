// A service from outside offers tools: the example of each language as a process of its own, without
// any code of the mesh, through the whole mesh; and what becomes of calls whose answer is lost.
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import type { JsonObject } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { PlanStep } from "../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { type Run, RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type ToolCall, ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { ProviderState } from "../gen/runwarden/tools/v1/provider_pb.ts"
import { ProviderService } from "../gen/runwarden/tools/v1/provider_service_pb.ts"
import { RegistryService } from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { tcpProxy } from "../mesh/fixtures/tcp-proxy.ts"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { providersEnvironment } from "../services/local/local.ts"
import { availableLanguages, removePrograms } from "./example-programs.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"
import { type OrdersProvider, ordersProvider } from "./orders-provider.ts"

const patience = { timeoutMs: 40_000 }

afterAll(removePrograms)

describe.each(availableLanguages("providers"))("a provider in $name", (language) => {
  const stack = new AsyncDisposableStack()
  let provider: OrdersProvider
  let wire: Awaited<ReturnType<typeof tcpProxy>>
  let mesh: TestMesh
  let workspace: TestWorkspace

  beforeAll(async () => {
    provider = stack.use(await ordersProvider(language))
    wire = stack.use(await tcpProxy(provider.port))
    const env = { RUNWARDEN_PROVIDERS: `${provider.name}=127.0.0.1:${wire.port}` }
    mesh = stack.use(await startTestMesh({ env: providersEnvironment(env) }))
    workspace = await mesh.addWorkspace()
  })
  afterAll(() => stack.disposeAsync())

  test("is listed as away before it comes, and found when it does", async () => {
    const away = await until(async () => {
      const found = await registered()
      return found?.state === ProviderState.UNAVAILABLE ? found : undefined
    }, patience)
    expect(away).toMatchObject({ error: "DEPENDENCY_UNAVAILABLE", toolCount: 0 })
    await expect(start("order.get", { order_id: "A-1001" })).rejects.toSatisfy(
      (error) => reasonOf(error) === "UNKNOWN_TOOL",
    )
    await provider.start()
    await until(async () => (await registered())?.state === ProviderState.READY, patience)
    const { workspaceId, viewer } = workspace
    const { tools } = await mesh
      .client(RegistryService, viewer)
      .listTools({ workspaceId, provider: provider.name })
    expect(tools.map(({ fullName }) => fullName)).toEqual(
      ["order.get", "order.note", "order.refund"].map((name) => `${provider.name}/${name}`),
    )
    expect(await registered()).toMatchObject({ error: "", toolCount: 3, refusedTools: [] })
  }, 300_000)

  test("is told who asks, for which workspace, by which key, in which trace and until when", async () => {
    const { runId } = await start("order.get", { order_id: "A-1002" })
    const run = await rest(runId, RunState.SUCCEEDED)
    const call = await callOf(runId)
    expect(call.outcome).toMatchObject({
      case: "result",
      value: { order_id: "A-1002", total_cents: 12_000, refunded_cents: 0, notes: [] },
    })
    const line = await until(
      () => callLines("order.get").find((it) => it.includes(runId)),
      patience,
    )
    const told = Object.fromEntries([...line.matchAll(/(\w+)=(\S+)/g)].map(([, k, v]) => [k, v]))
    expect(told).toMatchObject({
      tool: "order.get",
      key: call.idempotencyKey,
      workspace: workspace.workspaceId,
      actor: workspace.member.actorId,
      run: runId,
      trace: run.traceId,
    })
    expect(Number(told.left_ms)).toBeGreaterThan(0)
    expect(Number(told.left_ms)).toBeLessThanOrEqual(30_000)
  }, 60_000)

  test("says what its tools have to say, as their own error", async () => {
    const { runId } = await start("order.get", { order_id: "B-1" })
    await rest(runId, RunState.FAILED)
    expect((await callOf(runId)).outcome).toMatchObject({
      case: "error",
      value: { reason: "order_not_found" },
    })
  }, 60_000)

  test("does a high-risk call once a person has said yes, and once only", async () => {
    const { runId } = await start("order.refund", { order_id: "A-1001", cents: 900 })
    await rest(runId, RunState.REQUIRES_ACTION)
    expect(provider.output()).not.toContain("paying")
    await approve(runId)
    await rest(runId, RunState.SUCCEEDED)
    expect((await callOf(runId)).outcome).toMatchObject({ value: { refunded_cents: 900 } })
    expect(provider.output().match(/paying cents=900/g)).toHaveLength(1)
  }, 60_000)

  test("does a keyed call once, however often it is sent", async () => {
    wire.setLosingAnswers(true)
    const { runId } = await start("order.note", { order_id: "A-1002", text: "Call before noon." })
    await until(() => callLines("order.note").length === 1, patience)
    wire.cut()
    wire.setLosingAnswers(false)
    await rest(runId, RunState.SUCCEEDED)
    await until(() => callLines("order.note").length > 1, patience)
    const keys = callLines("order.note").map((line) => /key=(\S+)/.exec(line)?.[1])
    expect(new Set(keys).size).toBe(1)
    expect((await callOf(runId)).outcome).toMatchObject({ value: { notes: ["Call before noon."] } })
  }, 60_000)

  test("settles an unsafe call whose answer was lost by what it has recorded", async () => {
    await provider.start({ ORDERS_PAYMENT_MS: "500" })
    await reached()
    const { runId } = await start("order.refund", { order_id: "A-1002", cents: 300 })
    await rest(runId, RunState.REQUIRES_ACTION)
    wire.setLosingAnswers(true)
    await approve(runId)
    await until(() => provider.output().includes("paying cents=300"), patience)
    wire.cut()
    wire.setLosingAnswers(false)
    await rest(runId, RunState.SUCCEEDED)
    expect((await callOf(runId)).outcome).toMatchObject({ value: { refunded_cents: 300 } })
    expect(provider.output().match(/paying/g)).toHaveLength(1)
    expect(callLines("order.refund")).toHaveLength(1)
  }, 60_000)

  test("leaves an unsafe call in whose middle it was killed to a person", async () => {
    await provider.start({ ORDERS_PAYMENT_MS: "60000" })
    await reached()
    const { runId } = await start("order.refund", { order_id: "A-1002", cents: 700 })
    await rest(runId, RunState.REQUIRES_ACTION)
    await approve(runId)
    await until(() => provider.output().includes("paying cents=700"), patience)
    await provider.kill()
    const state = async () => (await callOf(runId)).state
    await until(async () => (await state()) === ToolCallState.OUTCOME_UNKNOWN, patience)
    await rest(runId, RunState.REQUIRES_ACTION)

    await provider.start()
    const { workspaceId, approver } = workspace
    const { toolCallId } = await callOf(runId)
    const result = { order_id: "A-1002", total_cents: 12_000, refunded_cents: 1_000, notes: [] }
    const { toolCall } = await mesh.client(ToolCallService, approver).settleToolCall({
      workspaceId,
      requestId: newId(),
      toolCallId,
      outcome: { case: "result", value: result },
    })
    expect(toolCall?.state).toBe(ToolCallState.SUCCEEDED)
    await rest(runId, RunState.SUCCEEDED)
    expect(provider.output()).not.toContain("paying")
  }, 90_000)

  test("goes on with a run that started while it was away", async () => {
    await provider.kill()
    const { runId } = await start("order.get", { order_id: "A-1001" })
    await until(async () => (await callOf(runId)).state === ToolCallState.EXECUTING, patience)
    await provider.start()
    await rest(runId, RunState.SUCCEEDED)
  }, 60_000)

  test("stops what has not happened yet when the run is cancelled or has no time left", async () => {
    await provider.start({ ORDERS_LOOKUP_MS: "60000" })
    const { runId: heardId } = await start("order.note", { order_id: "A-1001", text: "hello" })
    await rest(heardId, RunState.SUCCEEDED)
    const late = { ...step("order.get", { order_id: "A-1001" }), timeout: { seconds: 3n } }
    const { runId: lateId } = await startSteps([late])
    await until(() => stopped().length > 0, patience)
    await rest(lateId, RunState.FAILED)
    expect((await callOf(lateId)).reason).toBe("deadline_exceeded")

    const { runId } = await start("order.get", { order_id: "A-1001" })
    const { idempotencyKey } = await callOf(runId)
    await until(() => callLines("order.get").some((it) => it.includes(idempotencyKey)), patience)
    expect(stopped().some((line) => line.includes(idempotencyKey))).toBe(false)
    const { workspaceId, member } = workspace
    await mesh.client(RunService, member).cancelRun({ workspaceId, requestId: newId(), runId })
    await until(() => stopped().some((line) => line.includes(idempotencyKey)), patience)
    await rest(runId, RunState.CANCELLED)
  }, 90_000)

  test("sends its spans to the collector that it is told of", async () => {
    const bodies: Buffer[] = []
    const collector = createServer(async (request, response) => {
      bodies.push(Buffer.concat(await request.toArray()))
      response.end()
    })
    await new Promise<void>((resolve) => collector.listen(0, "127.0.0.1", resolve))
    const { port } = collector.address() as AddressInfo
    const { child, ended } = await provider.start({
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    })
    const run = await reached()
    child.kill("SIGTERM")
    expect(await ended).toBe(0)
    collector.close()
    const sent = Buffer.concat(bodies)
    const { traceId } = run
    expect(sent.includes(Buffer.from(traceId, "hex")) || sent.includes(traceId)).toBe(true)
  }, 60_000)

  function callLines(tool: string): string[] {
    return provider
      .output()
      .split("\n")
      .filter((it) => it.includes(`left_ms=`) && it.includes(`tool=${tool} `))
  }

  function stopped(): string[] {
    return provider
      .output()
      .split("\n")
      .filter((it) => it.includes("stopped"))
  }

  async function registered() {
    const { workspaceId, viewer } = workspace
    const { providers } = await mesh.client(ProviderService, viewer).listProviders({ workspaceId })
    return providers.find(({ name }) => name === provider.name)
  }

  /** A channel that lost its peer tries again from time to time; a call that reads waits for that. */
  async function reached(): Promise<Run> {
    const { runId } = await start("order.get", { order_id: "A-1001" })
    return rest(runId, RunState.SUCCEEDED)
  }

  function step(tool: string, args: JsonObject) {
    return { tool: `${provider.name}/${tool}`, arguments: args }
  }

  function start(tool: string, args: JsonObject): Promise<Run> {
    return startSteps([step(tool, args)])
  }

  async function startSteps(steps: Pick<PlanStep, "tool" | "arguments">[]): Promise<Run> {
    const { workspaceId, member } = workspace
    const request = { workspaceId, requestId: newId(), plan: { name: "orders", steps } }
    const { run } = await mesh.client(RunService, member).startRun(request)
    if (run === undefined) throw new Error("no run")
    return run
  }

  function rest(runId: string, state: RunState): Promise<Run> {
    const { workspaceId, viewer } = workspace
    const runs = mesh.client(RunService, viewer)
    return until(async () => {
      const { run } = await runs.getRun({ workspaceId, runId })
      return run?.state === state ? run : undefined
    }, patience)
  }

  async function callOf(runId: string): Promise<ToolCall> {
    const { workspaceId, viewer } = workspace
    const service = mesh.client(ToolCallService, viewer)
    const [call] = (await service.listToolCalls({ workspaceId, runId })).toolCalls
    const { toolCall } = await service.getToolCall({
      workspaceId,
      toolCallId: call?.toolCallId ?? "",
    })
    if (toolCall === undefined) throw new Error("no call")
    return toolCall
  }

  async function approve(runId: string): Promise<void> {
    const { workspaceId, approver } = workspace
    const approvals = mesh.client(ApprovalService, approver)
    const [waiting] = (await approvals.listApprovals({ workspaceId, runId })).approvals
    await approvals.decide({
      workspaceId,
      requestId: newId(),
      approvalId: waiting?.approvalId ?? "",
      digest: waiting?.digest ?? "",
      answer: Answer.APPROVE,
    })
  }
})
