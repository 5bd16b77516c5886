/** Tools of real MCP servers, by several authors, through the registry and the ledger. */
import { execFileSync, spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { create, type JsonObject, toJsonString } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { ExecutionSchema, ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { ProviderState } from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { callOf, execute, type Started, someone, startTools } from "../tools-harness.ts"
import type { McpServer } from "./servers.ts"

const packages = join(import.meta.dirname, "../../../node_modules")
const everything = join(packages, "@modelcontextprotocol/server-everything/dist/index.js")
const folder = mkdtempSync(join(tmpdir(), "runwarden-mcp-"))
const stack = new AsyncDisposableStack()
let tools: Started

beforeAll(async () => {
  const port = await freePort()
  const remote = spawn(process.execPath, [everything, "streamableHttp"], {
    env: { PORT: String(port) },
    stdio: ["ignore", "ignore", "pipe"],
  })
  stack.defer(() => void remote.kill())
  await new Promise<void>((resolve) => {
    remote.stderr.on("data", (text) => String(text).includes(`${port}`) && resolve())
  })
  const settings = new Map([["echo", { riskClass: RiskClass.LOW, effect: Effect.READ }]])
  tools = stack.use(
    await startTools(undefined, 10_000, [
      stdioServer("everything", [everything, "stdio"], settings),
      stdioServer("eslint", [join(packages, "@eslint/mcp/src/mcp-cli.js")]),
      stdioServer("git", [join(packages, "@cyanheads/git-mcp-server/dist/index.js")]),
      {
        name: "remote",
        connection: { kind: "http", url: new URL(`http://127.0.0.1:${port}/mcp`), headers: {} },
        settings: new Map(),
        maxSessions: 8,
      },
    ]),
  )
  await untilReady(["everything", "eslint", "git", "remote"])
}, 60_000)

async function untilReady(names: readonly string[]): Promise<void> {
  const me = someone()
  await vi.waitFor(
    async () => {
      const { workspaceId } = me
      const { providers } = await tools.providers.listProviders({ workspaceId }, actingAs(me))
      const ready = providers.filter(({ state }) => state === ProviderState.READY)
      expect(ready.map(({ name }) => name)).toEqual(expect.arrayContaining([...names]))
    },
    { timeout: 50_000, interval: 500 },
  )
}

afterAll(async () => {
  await stack.disposeAsync()
  rmSync(folder, { recursive: true, force: true })
})

describe("MCP servers", () => {
  it("offer what they list, HIGH and UNSAFE whatever they say of it", async () => {
    const me = someone()
    const { tools: found } = await tools.registry.listTools(
      { workspaceId: me.workspaceId, provider: "everything" },
      actingAs(me),
    )
    const byName = new Map(found.map((tool) => [tool.definition?.name, tool.definition]))
    expect(byName.get("get-sum")).toMatchObject({
      riskClass: RiskClass.HIGH,
      effect: Effect.UNSAFE,
      annotations: { readOnlyHint: true },
    })
    expect(byName.get("echo")).toMatchObject({ riskClass: RiskClass.LOW, effect: Effect.READ })
    expect(byName.get("get-sum")?.version).toMatch(/^mcp-[0-9a-f]{16}$/)
  })

  it.each(["everything", "remote"])(
    "%s: answer calls with content and structured content",
    async (provider) => {
      const sum = await resultOf(`${provider}/get-sum`, { a: 2, b: 40 })
      expect(JSON.stringify(sum)).toContain("42")
      const weather = await resultOf(`${provider}/get-structured-content`, { location: "Chicago" })
      expect(weather).toMatchObject({ temperature: expect.any(Number) })
    },
  )

  it("refuse arguments that break the schema before anything is sent", async () => {
    const call = await callOf(tools, "everything/get-sum", { a: "two", b: 40 })
    await expect(execute(tools, call)).rejects.toThrow(/schema/)
  })

  it("see no variable of this process", async () => {
    process.env.RUNWARDEN_TEST_SECRET = "do-not-tell"
    const seen = await resultOf("everything/get-env", {})
    expect(JSON.stringify(seen)).toContain("DECLARED")
    expect(JSON.stringify(seen)).not.toContain("do-not-tell")
    expect(JSON.stringify(seen)).not.toContain("PATH")
  })

  it("lint a real file", async () => {
    writeFileSync(
      join(folder, "eslint.config.mjs"),
      "export default [{ rules: { 'no-undef': 'error' } }]",
    )
    writeFileSync(join(folder, "broken.js"), "undefinedThing()\n")
    const found = await resultOf("eslint/lint-files", { filePaths: [join(folder, "broken.js")] })
    expect(JSON.stringify(found)).toContain("no-undef")
  })

  it("keep the state of one workspace from another", async () => {
    const mine = join(folder, "mine")
    execFileSync("git", ["init", "--quiet", mine])
    const owner = someone()
    const stranger = someone()
    await resultOf("git/git_set_working_dir", { path: mine }, owner)
    expect(JSON.stringify(await resultOf("git/git_status", {}, owner))).toContain("isClean")
    const { execution } = await execute(tools, await callOf(tools, "git/git_status", {}, stranger))
    expect(execution?.state).toBe(ExecutionState.FAILED)
    expect(toJsonString(ExecutionSchema, execution ?? create(ExecutionSchema))).not.toContain(mine)
  }, 30_000)

  it("carry the key of the call and the trace, and no token", async () => {
    const key = newId()
    const call = await callOf(tools, "everything/echo", { message: key })
    const { execution } = await execute(tools, call)
    expect(execution?.state).toBe(ExecutionState.SUCCEEDED)
  })

  async function resultOf(tool: string, args: JsonObject, subject = someone()): Promise<unknown> {
    const answer = await execute(tools, await callOf(tools, tool, args, subject))
    const { execution } = answer
    expect(answer).toMatchObject({ execution: { outcome: { case: "result" } } })
    return execution?.outcome.value
  }
})

function stdioServer(
  name: string,
  args: readonly string[],
  settings: McpServer["settings"] = new Map(),
): McpServer {
  // git is found by the path of its server, which sees nothing else of ours.
  const env = name === "git" ? { PATH: process.env.PATH ?? "" } : { DECLARED: "1" }
  const connection = { kind: "stdio", command: process.execPath, args, env, cwd: folder } as const
  return { name, connection, settings, maxSessions: 8 }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise<void>((resolve) => server.close(() => resolve()))
  return typeof address === "object" && address !== null ? address.port : 0
}
