// Providers that a workspace adds for itself, through the whole mesh and the commands that people use:
// over gRPC, over HTTP, and as a command of the deployment. Their secret shows up nowhere.
import { type ChildProcess, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import type { DescMethodUnary } from "@bufbuild/protobuf"
import type { Interceptor } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { RegistryService } from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { Effect } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { connect } from "../mesh/database.ts"
import { reasonOf } from "../mesh/errors.ts"
import { definition, FakeProvider } from "../mesh/fixtures/fake-provider.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { createGrpcServer, type GrpcServer } from "../mesh/grpc-server.ts"
import { createVerifier } from "../mesh/hop-tokens.ts"
import {
  actingAs,
  identityHeader,
  type ServiceName,
  serviceNames,
  serviceSubject,
} from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testKeys, testRuntime, until } from "../mesh/testing.ts"
import { root, runInside } from "./cli-process.ts"
import { freePort } from "./example-programs.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

const everything = path.join(
  root,
  "node_modules/@modelcontextprotocol/server-everything/dist/index.js",
)
const canary = "canary-5afe-0123456789"
const k1 = `k1:${randomBytes(32).toString("base64")}`
const k2 = `k2:${randomBytes(32).toString("base64")}`
const folder = mkdtempSync(path.join(tmpdir(), "runwarden-own-"))
const stack = new AsyncDisposableStack()
const orders = new FakeProvider()
const tokens: string[] = []
const shown: string[] = []
let env: Record<string, string>
let mesh: TestMesh
let ours: TestWorkspace
let theirs: TestWorkspace
let grpcPort = 0
let webPort = 0
let web: ChildProcess

beforeAll(async () => {
  orders.tools = [definition("order.get", { effect: Effect.READ }), definition("order.pay")]
  ;[grpcPort, webPort] = [await freePort(), await freePort()]
  web = spawn(process.execPath, [everything, "streamableHttp"], {
    env: { PATH: process.env.PATH, PORT: String(webPort) },
    stdio: "ignore",
  })
  const servers = path.join(folder, "servers.json")
  const start = { command: process.execPath, args: [everything, "stdio"], variables: ["API_TOKEN"] }
  writeFileSync(servers, JSON.stringify({ providerCommands: { everything: start } }))
  env = {
    TOOLS_MCP_SERVERS: servers,
    TOOLS_CREDENTIAL_KEYS: k1,
    TOOLS_PROVIDER_ORIGINS: `http://127.0.0.1:${grpcPort},http://127.0.0.1:${webPort}`,
  }
  mesh = stack.use(await startTestMesh({ env, wire: "grpc" }))
  ours = await mesh.addWorkspace()
  theirs = await mesh.addWorkspace()
  stack.use(await serveOrders())
  await until(() => fetch(`http://127.0.0.1:${webPort}/mcp`).then(Boolean, () => false), {
    timeoutMs: 60_000,
  })
}, 120_000)
afterAll(async () => {
  await stack.disposeAsync()
  web.kill()
  rmSync(folder, { recursive: true, force: true })
})

describe("added by a command, with a secret that the command line does not show", () => {
  test("over gRPC, its value from a variable", async () => {
    const added = await cli(
      [
        ...["provider", "add", "orders", "--grpc", `127.0.0.1:${grpcPort}`, "--plaintext"],
        ...["--credential", "X-Api-Key", "--from-env", "KEY", "--tool", "order.get=low,read"],
      ],
      { KEY: canary },
    )
    expect([added.code, added.stderr]).toEqual([0, expect.stringContaining("tool activate")])
    expect(added.stdout).toMatch(/state +ready/)
    expect(added.stdout).toContain("orders/order.get@1.0.0+low.read")
  })

  test("over HTTP", async () => {
    const added = await cli([
      ...["provider", "add", "web", "--mcp-url", `http://127.0.0.1:${webPort}/mcp`],
      ...["--tool", "echo=low,read"],
    ])
    expect(added.stdout).toMatch(/state +ready/)
  })

  test("as a command of the deployment, its value from the standard input", async () => {
    const added = await cli(
      [
        ...["provider", "add", "own", "--mcp-command", "everything"],
        ...["--credential", "API_TOKEN", "--tool", "get-env=low,read"],
      ],
      {},
      `${canary}\n`,
    )
    expect(added.stdout).toMatch(/state +ready/)
    const list = await cli(["provider", "list"])
    for (const name of ["orders", "own", "web"]) {
      expect(list.stdout).toMatch(new RegExp(`${name} +workspace +ready`))
    }
    expect(list.stdout).toMatch(/projects +deployment +ready/)
    expect((await cli(["tool", "list", "--provider", "orders"])).stdout).toContain("order.pay")
  })

  test.each([
    ["its value in its place", ["--credential", "x-api-key=secret"], /named without its value/],
    ["no value", ["--credential", "x-api-key"], /0 lines/],
    ["a variable that is not set", ["--credential", "a", "--from-env", "NONE"], /NONE is not set/],
    ["what nobody understands", ["--tool", "order.get=mild"], /low\|medium\|high/],
  ])("not with %s", async (_, options, message) => {
    const refused = await cli(["provider", "set", "orders", ...options])
    expect(refused.code).not.toBe(0)
    expect(refused.stderr).toMatch(message)
  })
})

describe("runs", () => {
  test("call them, by gRPC, by HTTP and in a process", async () => {
    expect(await outcomeOf("orders/order.get", { text: "one" })).toContain('"ok":true')
    expect(await outcomeOf("web/echo", { message: "far away" })).toContain("far away")
    const said = await outcomeOf("own/get-env", {})
    expect(said).toContain("[redacted]")
    expect(said).not.toContain(canary)
  })

  test("of another workspace do not", async () => {
    const list = await cli(["provider", "list"], {}, "", theirs)
    expect(list.stdout).not.toMatch(/orders|web|own/)
    const { workspaceId, member } = theirs
    const { tools } = await mesh.client(RegistryService, member).listTools({ workspaceId })
    expect(tools.every(({ provider }) => ["projects", "retrieval"].includes(provider))).toBe(true)
    const refused = startRun(theirs, "orders/order.get", { text: "mine" })
    expect(await refused.catch(reasonOf)).toBe("UNKNOWN_TOOL")
  })
})

test("the token that a provider gets is good for nobody", async () => {
  const token = tokens.at(-1) ?? ""
  expect(token).not.toBe("")
  for (const name of serviceNames) {
    const verified = createVerifier(name, testKeys.trusted).verify(token)
    expect([name, await verified.catch(reasonOf)]).toEqual([name, "UNAUTHENTICATED"])
    const [route] = mesh.mesh.target(name).routes
    const method = route?.service.methods.find(({ methodKind }) => methodKind === "unary")
    if (method === undefined) throw new Error(`${name} has no unary method`)
    const instead: Interceptor = (next) => (request) => {
      request.header.set(identityHeader, token)
      return next(request)
    }
    await using transport = createGrpcTransport(
      mesh.mesh.address(name),
      testRuntime("tools"),
      name,
      { innermost: [instead], hasBatches: false },
    )
    const { contextValues } = actingAs(serviceSubject("tools", ours.workspaceId))
    const sent = transport.unary(
      method as DescMethodUnary,
      undefined,
      5_000,
      undefined,
      {},
      contextValues,
    )
    expect([name, await sent.then(() => "served", reasonOf)]).toEqual([name, "UNAUTHENTICATED"])
  }
  const response = await fetch(`${mesh.url}/v1/workspaces/${ours.workspaceId}/tools`, {
    headers: { authorization: `Bearer ${token}`, [identityHeader]: token },
  })
  expect(response.status).toBe(401)
})

test("after a restart, and a change of keys, they are called as before", async () => {
  env.TOOLS_CREDENTIAL_KEYS = `${k2},${k1}`
  await mesh.restart(env)
  await until(async () => (await keyUses()).k1 === undefined, { timeoutMs: 30_000 })
  env.TOOLS_CREDENTIAL_KEYS = k2
  await mesh.restart(env)
  expect(await keyUses()).toEqual({ k2: 2 })
  expect(await outcomeOf("orders/order.get", { text: "two" })).toContain('"ok":true')
})

test("removed, a run under way fails with the reason, and what was done stays", async () => {
  const { runId } = await startRun(ours, "orders/order.pay", { text: "late" })
  await rest(ours, runId, RunState.REQUIRES_ACTION)
  const sent = orders.sendings.length
  expect((await cli(["provider", "remove", "orders"])).stderr).toContain("--yes")
  expect((await cli(["provider", "remove", "orders", "--yes"])).stdout).toContain("is removed")
  const { stdout } = await cli(["approval", "list", "-q"], {}, "", ours, "approver")
  const [approvalId = ""] = stdout.trim().split("\n")
  await cli(["approval", "confirm", approvalId, "--yes"], {}, "", ours, "approver")
  await rest(ours, runId, RunState.FAILED)
  expect(await saidBy(ours, runId)).toContain("removed the provider orders")
  expect(orders.sendings.length).toBe(sent)
  const again = startRun(ours, "orders/order.get", { text: "more" })
  expect(await again.catch(reasonOf)).toBe("UNKNOWN_TOOL")
})

test("the secret is in no database, and in nothing that was said", async () => {
  expect(shown.join()).not.toContain(canary)
  const bytes = Buffer.from(canary)
  const forms = [canary, bytes.toString("hex"), bytes.toString("base64")]
  for (const name of serviceNames) {
    const owner = mesh.env[`${name.toUpperCase()}_OWNER_DATABASE_URL`] ?? ""
    await using database = await connect(owner)
    const tables = await database.query<{ name: string }>(
      `select c.oid::regclass::text as name from pg_class c where c.relkind in ('r', 'p')
       and c.relnamespace in ('public'::regnamespace, 'runwarden'::regnamespace)`,
    )
    for (const { name: table } of tables) {
      // As the owner, who may take the wall away for a moment to look behind it.
      await database.query("begin")
      await database.query(`alter table ${table} no force row level security`)
      const found = await database.query(`select t::text as row from ${table} t`)
      await database.query("rollback")
      if (table === "provider_credentials") expect(found.length).toBeGreaterThan(0)
      const rows = JSON.stringify(found)
      expect([table, forms.filter((form) => rows.includes(form))]).toEqual([table, []])
    }
  }
})

async function serveOrders(): Promise<GrpcServer> {
  const audience = `provider:${ours.workspaceId}/orders` as ServiceName
  const { service, implementation } = orders.route()
  const noted = Object.fromEntries(
    Object.entries(implementation).map(([method, serve]) => [
      method,
      (request: never, context: { requestHeader: Headers }) => {
        tokens.push(context.requestHeader.get(identityHeader) ?? "")
        if (context.requestHeader.get("x-api-key") !== canary) throw new Error("without its key")
        return (serve as (request: never, context: object) => unknown)(request, context)
      },
    ]),
  ) as typeof implementation
  const runtime = {
    ...testRuntime("projects"),
    verifier: createVerifier(audience, testKeys.trusted),
  }
  const server = createGrpcServer(
    { routes: [{ service, implementation: noted }], runtime },
    { listen: `127.0.0.1:${grpcPort}` },
  )
  await server.start()
  return server
}

async function cli(
  args: readonly string[],
  more: Readonly<Record<string, string>> = {},
  stdin = "",
  workspace = ours,
  as: "admin" | "approver" = "admin",
) {
  const session = { RUNWARDEN_URL: mesh.url, RUNWARDEN_API_KEY: workspace[as].apiKey }
  const ended = await runInside(args, { env: { ...session, ...more }, stdin })
  shown.push(ended.stdout, ended.stderr)
  return ended
}

async function startRun({ workspaceId, member }: TestWorkspace, tool: string, args: object) {
  const steps = [{ tool, arguments: args as Record<string, string> }]
  const { run } = await mesh
    .client(RunService, member)
    .startRun({ workspaceId, requestId: newId(), plan: { name: "use", steps } })
  return { runId: run?.runId ?? "" }
}

async function rest({ workspaceId, member }: TestWorkspace, runId: string, state: RunState) {
  await until(
    async () => {
      const { run } = await mesh.client(RunService, member).getRun({ workspaceId, runId })
      return run?.state === state
    },
    { timeoutMs: 40_000 },
  )
}

/** What the one call of a run ended with, as JSON. */
async function saidBy({ workspaceId, member }: TestWorkspace, runId: string): Promise<string> {
  const client = mesh.client(ToolCallService, member)
  const { toolCalls } = await client.listToolCalls({ workspaceId, runId })
  const { toolCallId = "" } = toolCalls[0] ?? {}
  const { toolCall } = await client.getToolCall({ workspaceId, toolCallId })
  const said = JSON.stringify(toolCall?.outcome.value)
  shown.push(said)
  return said
}

/** What a run of one call ends with, as JSON. */
async function outcomeOf(tool: string, args: object): Promise<string> {
  const { runId } = await startRun(ours, tool, args)
  await rest(ours, runId, RunState.SUCCEEDED)
  return saidBy(ours, runId)
}

async function keyUses(): Promise<Record<string, number>> {
  await using worker = await connect(mesh.env.TOOLS_WORKER_DATABASE_URL ?? "")
  const rows = await worker.query<{ key_id: string; count: number }>(
    "select key_id, sum(credential_count)::integer as count from credential_keys_due group by 1",
  )
  return Object.fromEntries(rows.map((row) => [row.key_id, row.count]))
}
