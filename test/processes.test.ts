// The seven services as seven processes, from their environment alone, doing the main job over
// sockets, with one trace at a real OTLP receiver; then stopped by SIGTERM, each with exit code 0.
import { type ChildProcess, spawn } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { createServer as createHttpServer } from "node:http"
import { createServer } from "node:net"
import path from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { WorkspaceService } from "../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { MetricsService } from "../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGatewayTransport } from "../mesh/client-transport.ts"
import { type ServiceName, serviceNames } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { encodePrivateKey, encodeTrustedKeys } from "../mesh/keys.ts"
import { testDatabase, testKeys, until } from "../mesh/testing.ts"
import { databaseEnvironment } from "../services/local/local.ts"

const root = path.resolve(import.meta.dirname, "..")
const stack = new AsyncDisposableStack()
const processes = new Map<ServiceName, ChildProcess>()
const output = new Map<ServiceName, string>()
const operatorKey = `operator-${randomBytes(32).toString("base64url")}`
/** The services that sent spans of a trace, by trace id. */
const traces = new Map<string, Set<string>>()
let url = ""

beforeAll(async () => {
  const databases = await Promise.all(
    serviceNames.map(async (name) => [name, stack.use(await testDatabase(name))] as const),
  )
  const ports = await freePorts(serviceNames.length + 1)
  const addresses = Object.fromEntries(
    serviceNames.map((name, index) => [name, `127.0.0.1:${ports[index]}`]),
  ) as Record<ServiceName, string>
  const edge = `127.0.0.1:${ports.at(-1)}`
  url = `http://${edge}`
  const collector = stack.use(await startCollector())
  const shared = {
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    PATH: process.env.PATH ?? "",
    RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(testKeys.trusted),
    RUNWARDEN_LOG_LEVEL: "info",
    ...Object.fromEntries(
      serviceNames.map((name) => [`${name.toUpperCase()}_ADDRESS`, addresses[name]]),
    ),
    GATEWAY_LISTEN: edge,
    GATEWAY_OPERATOR_KEY_SHA256: createHash("sha256").update(operatorKey).digest("hex"),
    TOOLS_PROVIDERS: `projects=${addresses.projects},retrieval=${addresses.retrieval}`,
  }
  const urls = databaseEnvironment(Object.fromEntries(databases) as never)
  for (const name of serviceNames) {
    const prefix = name.toUpperCase()
    const own = Object.fromEntries(
      Object.entries(urls).filter(([variable]) => variable.startsWith(`${prefix}_`)),
    )
    const key = testKeys.private.get(name)
    if (key === undefined) throw new Error("no key")
    const listen = name === "gateway" ? "GATEWAY_INTERNAL_LISTEN" : `${prefix}_LISTEN`
    const child = spawn(process.execPath, [path.join(root, "services", name, "main.ts")], {
      cwd: root,
      env: {
        ...shared,
        ...own,
        [listen]: addresses[name],
        [`${prefix}_IDENTITY_KEY`]: encodePrivateKey(key),
      },
      stdio: ["ignore", "pipe", "pipe"],
    })
    processes.set(name, child)
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (text) => output.set(name, `${output.get(name) ?? ""}${text}`))
    }
  }
  await until(isHealthy, { timeoutMs: 60_000 })
}, 90_000)

afterAll(async () => {
  for (const child of processes.values()) child.kill("SIGKILL")
  await stack.disposeAsync()
})

async function isHealthy(): Promise<boolean> {
  for (const [name, child] of processes) {
    if (child.exitCode !== null) throw new Error(`${name} ended:\n${output.get(name)}`)
  }
  const answer = await fetch(`${url}/healthz`).catch(() => undefined)
  return answer?.ok === true
}

test("an operator makes a workspace, and a run in it does its work in other processes", async () => {
  const operator = createMeshClient(
    WorkspaceService,
    createGatewayTransport({ url, apiKey: operatorKey }),
  )
  const { workspace, secret } = await operator.createWorkspace({
    requestId: newId(),
    displayName: "Processes",
    adminDisplayName: "Ada",
  })
  const workspaceId = workspace?.workspaceId ?? ""
  const transport = createGatewayTransport({ url, apiKey: secret })
  const runs = createMeshClient(RunService, transport)
  const plan = {
    name: "set-up",
    steps: [
      { tool: "project.create", arguments: { name: "Sockets" } },
      {
        tool: "project.transition",
        arguments: { project_id: { $from: 0, path: "/project_id" }, state: "active" },
      },
      {
        tool: "document.create",
        arguments: { title: "Note", content: "Pelicans nest on the southern pier." },
      },
    ],
  }
  // The tools service asks its providers for their tools as they come up.
  const run = await until(async () => {
    try {
      return (await runs.startRun({ workspaceId, requestId: newId(), plan })).run
    } catch (error) {
      if (String(error).includes("no active tool")) return undefined
      throw error
    }
  })
  const ended = await until(async () => {
    const found = await runs.getRun({ workspaceId, runId: run.runId })
    return found.run?.state === RunState.RUNNING ? undefined : found.run
  })
  expect(ended).toMatchObject({ state: RunState.SUCCEEDED })
  const toolCallService = createMeshClient(ToolCallService, transport)
  const { toolCalls } = await toolCallService.listToolCalls({ workspaceId, runId: run.runId })
  expect(toolCalls).toHaveLength(3)
  await until(async () => {
    const search = await runs.startRun({
      workspaceId,
      requestId: newId(),
      plan: { name: "ask", steps: [{ tool: "document.search", arguments: { query: "pelicans" } }] },
    })
    const runId = search.run?.runId ?? ""
    await until(async () => {
      const found = await runs.getRun({ workspaceId, runId })
      return found.run?.state === RunState.SUCCEEDED
    })
    const { toolCalls: searches } = await toolCallService.listToolCalls({ workspaceId, runId })
    const toolCallId = searches[0]?.toolCallId ?? ""
    const { toolCall } = await toolCallService.getToolCall({ workspaceId, toolCallId })
    return JSON.stringify(toolCall?.outcome.value).includes("southern pier")
  })
  await until(
    () =>
      ["gateway", "orchestrator", "tools", "moderation", "projects"].every((name) =>
        traces.get(ended.traceId)?.has(`runwarden-${name}`),
      ),
    { timeoutMs: 20_000 },
  )
  await until(async () => {
    const { metrics } = await createMeshClient(MetricsService, transport).getMetrics({
      workspaceId,
    })
    return (metrics?.runsByState.succeeded ?? 0) >= 2
  })
}, 60_000)

test("SIGTERM ends each of them in time, with exit code 0", async () => {
  const codes = await Promise.all(
    [...processes].map(async ([name, child]) => {
      const { promise, resolve } = Promise.withResolvers<number | null>()
      child.on("exit", resolve)
      child.kill("SIGTERM")
      return [name, await promise] as const
    }),
  )
  expect(Object.fromEntries(codes)).toEqual(Object.fromEntries(serviceNames.map((n) => [n, 0])))
}, 40_000)

test("a service without its environment says all that is missing, and exits with 78", async () => {
  const child = spawn(process.execPath, [path.join(root, "services/projects/main.ts")], {
    env: { PATH: process.env.PATH ?? "" },
    stdio: ["ignore", "ignore", "pipe"],
  })
  let text = ""
  child.stderr.on("data", (part) => {
    text += part
  })
  const { promise, resolve } = Promise.withResolvers<number | null>()
  child.on("close", resolve)
  expect(await promise).toBe(78)
  for (const name of [
    "PROJECTS_IDENTITY_KEY",
    "RUNWARDEN_TRUSTED_KEYS",
    "PROJECTS_DATABASE_URL",
    "PROJECTS_WORKER_DATABASE_URL",
  ]) {
    expect(text).toContain(name)
  }
})

/** A receiver of OTLP over HTTP with JSON, as a collector offers it. */
async function startCollector(): Promise<AsyncDisposable & { readonly url: string }> {
  const server = createHttpServer((request, response) => {
    const chunks: Buffer[] = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", () => {
      remember(JSON.parse(Buffer.concat(chunks).toString("utf8")) as OtlpRequest)
      response.writeHead(200, { "content-type": "application/json" }).end("{}")
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  if (address === null || typeof address === "string") throw new Error("no port")
  return {
    url: `http://127.0.0.1:${address.port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

interface OtlpRequest {
  readonly resourceSpans: readonly {
    readonly resource: {
      readonly attributes: readonly { key: string; value: { stringValue?: string } }[]
    }
    readonly scopeSpans: readonly { readonly spans: readonly { traceId: string }[] }[]
  }[]
}

function remember({ resourceSpans }: OtlpRequest): void {
  for (const { resource, scopeSpans } of resourceSpans) {
    const name = resource.attributes.find(({ key }) => key === "service.name")?.value.stringValue
    for (const { traceId } of scopeSpans.flatMap(({ spans }) => spans)) {
      const services = traces.get(traceId) ?? new Set()
      traces.set(traceId, services.add(name ?? "nameless"))
    }
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
      return server
    }),
  )
  const ports = servers.map((server) => {
    const address = server.address()
    if (address === null || typeof address === "string") throw new Error("no port")
    return address.port
  })
  await Promise.all(
    servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
  )
  return ports
}
