/** MCP servers that workspaces add: a real one from npm, over HTTP and as a process of the deployment. */
import { type ChildProcess, spawn } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"
import type { MessageInitShape } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  type ProviderConnectionSchema,
  ProviderState,
} from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { callOf, execute, type Started, startTools } from "../tools-harness.ts"
import { allowing, newAdmin, refresh } from "./own-harness.ts"

const everything = join(
  import.meta.dirname,
  "../../../node_modules/@modelcontextprotocol/server-everything/dist/index.js",
)
const admin = newAdmin()
const other = newAdmin()
const stack = new AsyncDisposableStack()
const token = "canary-0badf00d-99"
let tools: Started
let server: ChildProcess
let port = 0

beforeAll(async () => {
  port = await freePort()
  server = spawn(process.execPath, [everything, "streamableHttp"], {
    env: { PATH: process.env.PATH, PORT: String(port) },
    stdio: "ignore",
  })
  await until(() => isOpen(port), { timeoutMs: 60_000 })
  const start = { command: process.execPath, args: [everything, "stdio"], env: { PLAIN: "one" } }
  const commands = new Map([["everything", { start, variables: ["API_TOKEN"], maxProcesses: 1 }]])
  tools = stack.use(
    await startTools(undefined, undefined, [], {
      workspaceProviders: allowing([`127.0.0.1:${port}`], { commands }),
    }),
  )
}, 90_000)
afterAll(async () => {
  await stack.disposeAsync()
  server.kill()
})

describe("over HTTP", () => {
  it("is asked, and runs calls; its annotations decide nothing", async () => {
    const { provider } = await addMcp("web", {
      case: "mcpHttp",
      value: { url: `http://127.0.0.1:${port}/mcp` },
    })
    expect(provider).toMatchObject({ state: ProviderState.READY, error: "" })
    const call = await callOf(tools, "web/echo", { message: "hello" }, admin)
    const { execution } = await execute(tools, call)
    expect(JSON.stringify(execution?.outcome.value)).toContain("hello")
    const { tools: listed } = await tools.registry.listTools(
      { workspaceId: admin.workspaceId, provider: "web" },
      actingAs(admin),
    )
    const set = listed.map(({ definition }) => [definition?.riskClass, definition?.effect])
    expect(new Set(set.map(String))).toEqual(new Set([String([RiskClass.HIGH, Effect.UNSAFE])]))
  })

  it.each(["http://127.0.0.1:1/mcp", "http://example.com/mcp", "https://10.1.2.3/mcp"])(
    "is not %s",
    async (url) => {
      const added = addMcp("far", { case: "mcpHttp", value: { url } })
      expect(await added.catch(reasonOf)).toBe("INVALID_REQUEST")
    },
  )
})

describe("as a command of the deployment", () => {
  it("sees what the deployment and the workspace set, and nothing else; nobody sees the secret", async () => {
    const { provider } = await addMcp("own", command, [{ name: "API_TOKEN", value: token }])
    expect(provider).toMatchObject({ state: ProviderState.READY, error: "" })
    const { execution } = await execute(tools, await callOf(tools, "own/get-env", {}, admin))
    const said = JSON.stringify(execution?.outcome.value)
    expect(said).toContain("API_TOKEN")
    expect(said).toContain("[redacted]")
    expect(said).toContain("PLAIN")
    expect(said).not.toContain(token)
    expect(said).not.toContain("HOME")
    const running = childrenOf(process.pid).map((pid) =>
      readFileSync(`/proc/${pid}/environ`, "utf8"),
    )
    if (running.length > 0) {
      expect(running.filter((env) => env.includes(`API_TOKEN=${token}`))).toHaveLength(1)
    }
  })

  it("is started no oftener than it may, whoever asks", async () => {
    const { provider } = await addMcp("own", command, [], other)
    expect(provider).toMatchObject({ error: "DEPENDENCY_UNAVAILABLE" })
  })

  it("ends with its provider, which makes room for another", async () => {
    await tools.providers.deleteProvider(
      { workspaceId: admin.workspaceId, requestId: newId(), provider: "own" },
      actingAs(admin),
    )
    await until(async () => (await refresh(tools, other, "own")).provider?.error === "", {
      timeoutMs: 60_000,
    })
  })

  it.each([
    ["a command that nobody allowed", { case: "mcpStdio", value: { command: "sh" } }, []],
    [
      "a variable that nobody allowed",
      { case: "mcpStdio", value: { command: "everything" } },
      ["NODE_OPTIONS"],
    ],
  ] as const)("is not %s", async (_, kind, names) => {
    const credentials = names.map((name) => ({ name, value: "--require=/tmp/x" }))
    const added = addMcp("free", kind, credentials)
    expect(await added.catch(reasonOf)).toBe("INVALID_REQUEST")
  })
})

const command = { case: "mcpStdio", value: { command: "everything" } } as const

async function addMcp(
  name: string,
  kind: NonNullable<MessageInitShape<typeof ProviderConnectionSchema>["kind"]>,
  credentials: readonly { name: string; value: string }[] = [],
  who = admin,
) {
  const { workspaceId } = who
  await tools.providers.createProvider(
    {
      workspaceId,
      requestId: newId(),
      name,
      connection: { kind },
      credentials: [...credentials],
    },
    actingAs(who),
  )
  return refresh(tools, who, name)
}

/** On Linux alone; elsewhere nothing is found. */
function childrenOf(parent: number): readonly string[] {
  try {
    return readdirSync("/proc").filter((pid) => {
      if (!/^\d+$/.test(pid)) return false
      try {
        return (
          readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ")[1] === `${parent}`
        )
      } catch {
        return false
      }
    })
  } catch {
    return []
  }
}

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve))
  const address = probe.address()
  await new Promise((resolve) => probe.close(resolve))
  return typeof address === "object" ? (address?.port ?? 0) : 0
}

async function isOpen(at: number): Promise<boolean> {
  return fetch(`http://127.0.0.1:${at}/mcp`).then(
    () => true,
    () => false,
  )
}
