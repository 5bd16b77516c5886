// A service from outside offers tools: the example as a process of its own, without any code of the
// mesh, through the whole mesh; and what it refuses, killed and late.
import { type ChildProcess, spawn } from "node:child_process"
import { generateKeyPairSync, type KeyObject } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import {
  create,
  type DescMethod,
  type JsonObject,
  type Message,
  toBinary,
} from "@bufbuild/protobuf"
import { type CallOptions, type Client, createClient } from "@connectrpc/connect"
import * as grpc from "@grpc/grpc-js"
import { SignJWT } from "jose"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { type Run, RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type ToolCall, ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { type Provider, ProviderState } from "../gen/runwarden/tools/v1/provider_pb.ts"
import { RegistryService } from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { Outcome, ToolProviderService } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { actingAs, identityHeader, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { encodeTrustedKeys } from "../mesh/keys.ts"
import { testKeys, testRuntime, until } from "../mesh/testing.ts"
import { providersEnvironment } from "../services/local/local.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

const main = path.resolve(import.meta.dirname, "../examples/orders-provider/main.ts")
const folder = mkdtempSync(path.join(tmpdir(), "runwarden-orders-"))
const stack = new AsyncDisposableStack()
let running: ChildProcess | undefined
let output: () => string = () => ""
let port = 0
let mesh: TestMesh
let workspace: TestWorkspace

beforeAll(async () => {
  port = await freePort()
  mesh = stack.use(
    await startTestMesh({
      env: providersEnvironment({ RUNWARDEN_PROVIDERS: `orders=127.0.0.1:${port}` }),
    }),
  )
  workspace = await mesh.addWorkspace()
})
afterAll(async () => {
  await killProvider()
  await stack.disposeAsync()
  rmSync(folder, { recursive: true, force: true })
})

test("a provider that is away at the start is listed as such, and found when it comes", async () => {
  const away = await until(async () => {
    const found = await provider()
    return found?.state === ProviderState.UNAVAILABLE ? found : undefined
  })
  expect(away).toMatchObject({ error: "DEPENDENCY_UNAVAILABLE", toolCount: 0 })
  await expect(start("order.get", { order_id: "A-1001" })).rejects.toSatisfy(
    (error) => reasonOf(error) === "UNKNOWN_TOOL",
  )
  await startProvider()
  await until(async () => (await provider())?.state === ProviderState.READY)
  const { workspaceId, viewer } = workspace
  const { tools } = await mesh
    .client(RegistryService, viewer)
    .listTools({ workspaceId, provider: "orders" })
  expect(tools.map((tool) => tool.fullName)).toEqual(["orders/order.get", "orders/order.refund"])
  expect(await provider()).toMatchObject({ error: "", toolCount: 2, refusedTools: [] })
})

test("a call that reads runs, and a tool's own error is the call's", async () => {
  const { runId } = await start("order.get", { order_id: "A-1002" })
  await rest(runId, RunState.SUCCEEDED)
  expect((await callOf(runId)).outcome).toMatchObject({
    case: "result",
    value: { order_id: "A-1002", total_cents: 12_000, refunded_cents: 0 },
  })
  const missing = await start("orders/order.get", { order_id: "B-1" })
  await rest(missing.runId, RunState.FAILED)
  expect((await callOf(missing.runId)).outcome).toMatchObject({
    case: "error",
    value: { reason: "order_not_found" },
  })
})

test("a high-risk call waits for a person, and money moves once", async () => {
  const { runId } = await start("order.refund", { order_id: "A-1001", cents: 900 })
  await rest(runId, RunState.REQUIRES_ACTION)
  expect(output()).not.toContain("paying")
  await approve(runId)
  await rest(runId, RunState.SUCCEEDED)
  expect((await callOf(runId)).outcome).toMatchObject({ value: { refunded_cents: 900 } })
  expect(output().match(/paying 900 cents/g)).toHaveLength(1)
})

test("a run that starts while the provider is away goes on when it is back", async () => {
  await killProvider()
  const { runId } = await start("order.get", { order_id: "A-1001" })
  await until(async () => (await callOf(runId)).state === ToolCallState.EXECUTING)
  await startProvider()
  await rest(runId, RunState.SUCCEEDED)
})

test("a provider killed in the middle of an unsafe call leaves it to a person", async () => {
  await startProvider({ ORDERS_PAYMENT_MS: "60000" })
  await reached()
  const { runId } = await start("order.refund", { order_id: "A-1002", cents: 700 })
  await rest(runId, RunState.REQUIRES_ACTION)
  await approve(runId)
  await until(() => output().includes("paying 700 cents"))
  await killProvider()
  await until(async () => (await callOf(runId)).state === ToolCallState.OUTCOME_UNKNOWN)
  await rest(runId, RunState.REQUIRES_ACTION)

  await startProvider()
  const { workspaceId, approver } = workspace
  const { toolCallId } = await callOf(runId)
  const result = { order_id: "A-1002", total_cents: 12_000, refunded_cents: 700 }
  const { toolCall } = await mesh.client(ToolCallService, approver).settleToolCall({
    workspaceId,
    requestId: newId(),
    toolCallId,
    outcome: { case: "result", value: result },
  })
  expect(toolCall?.state).toBe(ToolCallState.SUCCEEDED)
  await rest(runId, RunState.SUCCEEDED)
  expect(output()).not.toContain("paying")
}, 40_000)

describe("called directly", () => {
  test("a repeated key gives the stored answer, after a restart too, and tells its outcome", async () => {
    await startProvider()
    const workspaceId = newId()
    const call = refundCall(workspaceId)
    const first = await (await connected()).executeTool(call, as(workspaceId))
    expect(first.outcome).toMatchObject({ case: "result", value: { refunded_cents: 100 } })
    expect(output()).toContain("paying")
    await startProvider()
    const orders = await connected()
    expect((await orders.executeTool(call, as(workspaceId))).outcome).toEqual(first.outcome)
    expect(output()).not.toContain("paying")
    const about = { workspaceId, tool: call.tool, idempotencyKey: call.idempotencyKey }
    expect(await orders.getOutcome(about, as(workspaceId))).toMatchObject({
      outcome: Outcome.COMPLETED,
      response: { outcome: first.outcome },
    })
    const never = { ...about, idempotencyKey: "never" }
    expect((await orders.getOutcome(never, as(workspaceId))).outcome).toBe(Outcome.UNKNOWN)
    // The workspace is the token's, whatever the request says.
    expect((await orders.getOutcome(about, as(newId()))).outcome).toBe(Outcome.UNKNOWN)
  })

  test("a tool or version that is not offered is refused before any effect", async () => {
    const workspaceId = newId()
    const orders = await connected()
    for (const change of [{ tool: "order.burn" }, { version: "9.9.9" }]) {
      const error: unknown = await orders
        .executeTool({ ...refundCall(workspaceId), ...change }, as(workspaceId))
        .catch((caught: unknown) => caught)
      expect(error).toMatchObject({ code: grpc.status.INVALID_ARGUMENT })
    }
  })

  test("a token that is absent, forged, old or for somebody else is refused", async () => {
    await startProvider()
    await connected()
    const own = signingKey("tools")
    const now = Math.floor(Date.now() / 1000)
    expect(await codeWith(await sign(own, {}))).toBe("accepted")
    const refused = {
      absent: undefined,
      garbage: "e30.e30.e30",
      "of a stranger's key": await sign(generateKeyPairSync("ed25519").privateKey, {}),
      "of another service": await sign(signingKey("gateway"), { issuer: "gateway" }),
      "of another service that calls itself tools": await sign(signingKey("gateway"), {}),
      "of tools in another's name": await sign(own, { issuer: "gateway" }),
      "for another provider": await sign(own, { audience: "projects" }),
      "of another type": await sign(own, { typ: "JWT" }),
      expired: await sign(own, { issuedAt: now - 90 }),
      "from the future": await sign(own, { issuedAt: now + 90 }),
      "that lives too long": await sign(own, { issuedAt: now - 90, lifeSeconds: 3_600 }),
    }
    for (const [which, token] of Object.entries(refused)) {
      expect.soft(await codeWith(token), which).toBe(grpc.status.UNAUTHENTICATED)
    }
    expect(output().match(/paying/g)).toHaveLength(1)
  })
})

/** A client in the place of the tools service, whose channels have found their way after a kill. */
async function connected(): Promise<Client<typeof ToolProviderService>> {
  const transport = createGrpcTransport(`127.0.0.1:${port}`, testRuntime("tools"), "orders")
  const client = createClient(ToolProviderService, stack.use(transport))
  const call = { ...refundCall(newId()), tool: "order.get" }
  const options = as(call.workspaceId)
  await until(() =>
    // Calls that may be repeated have a channel of their own.
    Promise.all([client.executeTool(call, options), client.listTools({}, options)]).then(
      () => true,
      () => false,
    ),
  )
  return client
}

function as(workspaceId: string): CallOptions {
  return actingAs(memberSubject(workspaceId, newId(), Role.MEMBER))
}

function refundCall(workspaceId: string) {
  return {
    workspaceId,
    tool: "order.refund",
    version: "1.0.0",
    idempotencyKey: newId(),
    arguments: { order_id: "A-1001", cents: 100 },
    runId: newId(),
  }
}

function signingKey(name: "tools" | "gateway"): KeyObject {
  const key = testKeys.private.get(name)
  if (key === undefined) throw new Error(`no key for ${name}`)
  return key
}

interface TokenChange {
  readonly issuer?: string
  readonly audience?: string
  readonly typ?: string
  readonly issuedAt?: number
  readonly lifeSeconds?: number
}

function sign(key: KeyObject, change: TokenChange): Promise<string> {
  const { issuer = "tools", audience = "orders", typ = "runwarden-hop+jwt" } = change
  const { issuedAt = Math.floor(Date.now() / 1000), lifeSeconds = 60 } = change
  return new SignJWT({ ws: newId(), kind: "member", role: Role.MEMBER })
    .setProtectedHeader({ alg: "EdDSA", typ, kid: issuer })
    .setIssuer(issuer)
    .setAudience(audience)
    .setSubject("somebody")
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + lifeSeconds)
    .sign(key)
}

/** The code by which every method answers a call with this token, by a client that is only gRPC. */
async function codeWith(token: string | undefined): Promise<unknown> {
  const channel = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
  const metadata = new grpc.Metadata()
  if (token !== undefined) metadata.set(identityHeader, token)
  const { listTools, executeTool, getOutcome } = ToolProviderService.method
  const send = (method: DescMethod, message: Message) =>
    new Promise((resolve) => {
      channel.makeUnaryRequest(
        `/${method.parent.typeName}/${method.name}`,
        (input: Message) => Buffer.from(toBinary(method.input, input)),
        () => "accepted",
        message,
        metadata,
        { deadline: Date.now() + 5_000 },
        (error, answer) => resolve(error?.code ?? answer),
      )
    })
  const codes = await Promise.all([
    send(listTools, create(listTools.input)),
    send(executeTool, create(executeTool.input, refundCall(newId()))),
    send(getOutcome, create(getOutcome.input, { tool: "order.refund", idempotencyKey: "x" })),
  ])
  channel.close()
  return new Set(codes).size === 1 ? codes[0] : codes
}

/** Starts the example, in place of the one that runs; `output` is what it prints. */
async function startProvider(env: Readonly<Record<string, string>> = {}): Promise<void> {
  await killProvider()
  const tools = [...testKeys.trusted].filter(([name]) => name === "tools")
  const child = spawn(process.execPath, [main], {
    env: {
      RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(new Map(tools)),
      ORDERS_LISTEN: `127.0.0.1:${port}`,
      ORDERS_DATABASE: path.join(folder, "orders.sqlite"),
      ORDERS_PAYMENT_MS: "10",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  })
  let text = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      text += chunk
    })
  }
  running = child
  output = () => text
  await until(() => {
    if (child.exitCode !== null) throw new Error(`the provider ended:\n${text}`)
    return text.includes("serves 2 tools")
  })
}

async function killProvider(): Promise<void> {
  const child = running
  running = undefined
  if (child === undefined || child.exitCode !== null || !child.kill("SIGKILL")) return
  await new Promise((resolve) => child.once("exit", resolve))
}

async function provider(): Promise<Provider | undefined> {
  const { workspaceId, viewer } = workspace
  const { providers } = await mesh.client(RegistryService, viewer).listProviders({ workspaceId })
  return providers.find(({ name }) => name === "orders")
}

/** A channel that lost its peer tries again from time to time; a call that reads waits for that. */
async function reached(): Promise<void> {
  const { runId } = await start("order.get", { order_id: "A-1001" })
  await rest(runId, RunState.SUCCEEDED)
}

async function start(tool: string, args: JsonObject): Promise<Run> {
  const { workspaceId, member } = workspace
  const plan = { name: "orders", steps: [{ tool, arguments: args }] }
  const request = { workspaceId, requestId: newId(), plan }
  const { run } = await mesh.client(RunService, member).startRun(request)
  if (run === undefined) throw new Error("no run")
  return run
}

function rest(runId: string, state: RunState): Promise<unknown> {
  const { workspaceId, viewer } = workspace
  const runs = mesh.client(RunService, viewer)
  return until(async () => (await runs.getRun({ workspaceId, runId })).run?.state === state, {
    timeoutMs: 15_000,
  })
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

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === "string") throw new Error("no port")
  return address.port
}
