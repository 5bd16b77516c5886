/** MCP servers that misbehave: each call ends in the right state, and nobody else is harmed. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { AttemptFault, ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { callOf, execute, type Started, someone, startTools } from "../tools-harness.ts"

const folder = mkdtempSync(join(tmpdir(), "runwarden-mcp-"))
const effects = join(folder, "effects")
const received = join(folder, "received")
const timeoutMs = 3_000
let tools: Started

beforeAll(async () => {
  const server = {
    name: "hostile",
    connection: {
      kind: "stdio",
      command: process.execPath,
      args: [join(import.meta.dirname, "../../../mesh/fixtures/mcp-server.ts"), effects, received],
      env: {},
    },
    settings: new Map(),
    maxSessions: 40,
  } as const
  const settings = new Map([["act", { riskClass: RiskClass.LOW, effect: Effect.READ }]])
  tools = await startTools(undefined, 10_000, [server, { ...server, name: "reader", settings }])
  await vi.waitFor(() => Promise.all(["hostile", "reader"].map((name) => act("", name))), 30_000)
}, 40_000)

beforeEach(() => rmSync(effects, { force: true }))

afterAll(async () => {
  await tools[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

describe("a hostile MCP server", () => {
  it.each([
    ["hang", "unknown after its deadline"],
    ["crash", "unknown"],
    ["flood", "unknown, and its line is not read to its end"],
    ["drip", "unknown after its deadline"],
    ["bad_utf8", "unknown: what it said cannot be read"],
    ["internal", "unknown: it may have acted"],
    ["wrong_shape", "unknown: what it said is no result"],
  ])("that does %s leaves an unsafe call %s", async (what) => {
    const before = process.memoryUsage.rss()
    const { execution } = await act(what)
    expect(execution?.state).toBe(ExecutionState.OUTCOME_UNKNOWN)
    expect(process.memoryUsage.rss() - before).toBeLessThan(32 * 1_048_576)
    expect(effectsSeen()).toEqual([what])
  })

  it("that hangs leaves a call that only reads to be repeated", async () => {
    const answer = await act("hang", "reader")
    expect(answer.execution?.state).toBe(ExecutionState.IN_FLIGHT)
    expect(answer.failedAttempt?.fault).toBe(AttemptFault.LOST)
  })

  it.each(["garbage", "twice", "ask"])("that does %s is understood all the same", async (what) => {
    const { execution } = await act(what)
    expect(execution?.outcome).toMatchObject({
      case: "result",
      value: { content: [{ type: "text", text: "done" }] },
    })
  })

  it("that asks for a model is told that there is none", async () => {
    await act("ask")
    await vi.waitFor(() => {
      expect(readFileSync(received, "utf8")).toMatch(/"id":"sampling-1","error":\{"code":-32601/)
    })
  })

  it("that says that it failed is believed in that", async () => {
    const { execution } = await act("error")
    expect(execution?.outcome).toMatchObject({
      case: "error",
      value: { reason: "tool_failed", message: "it is broken" },
    })
  })

  it.each(["change", "change_silently"])(
    "whose tool does %s is not called until it is what it was",
    async (what) => {
      const me = someone()
      const later = await callOf(tools, "hostile/act", { do: "" }, me)
      await act(what)
      // The oldest list that a call is made by is as old as the time between two refreshes.
      await vi.waitFor(() => expect(act("")).rejects.toThrow(/no active tool/), 3_000)
      const { execution } = await execute(tools, later, { timeoutMs })
      expect(execution?.outcome).toMatchObject({ case: "error", value: { reason: "not_executed" } })
      expect(effectsSeen().filter((effect) => effect !== "")).toEqual([what])
      rmSync(`${effects}.description`)
      await vi.waitFor(() => act(""), 3_000)
    },
  )

  it("sees the key of the call and the trace, and no token", async () => {
    const call = await callOf(tools, "hostile/act", { do: "tell" })
    await execute(tools, call, { timeoutMs })
    const sent = readFileSync(received, "utf8")
      .split("\n")
      .find((line) => line.includes('"do":"tell"'))
    expect(JSON.parse(sent ?? "{}").params).toEqual({
      name: "act",
      arguments: { do: "tell" },
      _meta: {
        "runwarden.dev/idempotency-key": call.request.idempotencyKey,
        traceparent: expect.stringMatching(/^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/),
      },
    })
    expect(readFileSync(received, "utf8")).not.toMatch(/eyJ|Bearer|authorization/i)
  })

  it("takes its children with it when it ends", async () => {
    const own = await startTools(undefined, 10_000, [
      {
        name: "breeder",
        connection: {
          kind: "stdio",
          command: process.execPath,
          args: [
            join(import.meta.dirname, "../../../mesh/fixtures/mcp-server.ts"),
            effects,
            received,
          ],
          env: {},
        },
        settings: new Map(),
        maxSessions: 4,
      },
    ])
    const { execution } = await vi.waitFor(
      async () => execute(own, await callOf(own, "breeder/act", { do: "breed" })),
      20_000,
    )
    expect(execution?.outcome.case).toBe("result")
    const child = Number(/"text":"(\d+)"/.exec(JSON.stringify(execution?.outcome.value))?.[1])
    expect(isAlive(child)).toBe(true)
    await own[Symbol.asyncDispose]()
    await vi.waitFor(() => expect(isAlive(child)).toBe(false), 5_000)
  }, 40_000)
})

async function act(what: string, provider = "hostile") {
  return execute(tools, await callOf(tools, `${provider}/act`, { do: what }), { timeoutMs })
}

function effectsSeen(): readonly string[] {
  return existsSync(effects) ? readFileSync(effects, "utf8").trimEnd().split("\n") : []
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ")
  } catch {
    return false
  }
}
