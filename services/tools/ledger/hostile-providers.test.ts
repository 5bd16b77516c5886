/** Providers that misbehave over gRPC: each call ends in the right state, and nobody else is harmed. */
import { type ChildProcessByStdio, spawn } from "node:child_process"
import { join } from "node:path"
import { createInterface } from "node:readline"
import type { Readable } from "node:stream"
import { setTimeout as sleep } from "node:timers/promises"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { createClient } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { AttemptFault, ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { ToolProviderService } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { createGrpcTransport } from "../../../mesh/grpc-client.ts"
import { testClient, testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { createTools } from "../service.ts"
import { callOf, execute, noWorkspaceProviders } from "../tools-harness.ts"

/** The deadline of what does not end before it, and of what does, however busy the machine is. */
const shortMs = 3_000
const longMs = 20_000
const MiB = 1_048_576
/** How much later anything may come: by a few milliseconds, but for what else runs here. */
const patienceMs = 10_000
vi.setConfig({ testTimeout: 60_000 })
const { IN_FLIGHT, OUTCOME_UNKNOWN, FAILED } = ExecutionState

setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc") as () => void

const stack = new AsyncDisposableStack()
let tools: { readonly execution: ReturnType<typeof testClient<typeof ExecutionService>> }
/** What the hostile provider said it did, in order. */
const said: string[] = []

beforeAll(async () => {
  const hostile = await startHostile()
  const runtime = testRuntime("tools")
  const database = stack.use(await testDatabase("tools"))
  const service = stack.use(
    createTools(
      {
        database,
        providers: [
          { name: "hostile", address: hostile },
          { name: "batching", address: await startHostile("batches") },
          { name: "good", address: await startHostile() },
        ],
        mcpServers: [],
        workspaceProviders: noWorkspaceProviders,
        refreshMs: 1_000,
        execution: { leaseMs: 10_000, probeTimeoutMs: 500, maxResultBytes: 262_144 },
      },
      {
        runtime,
        provider: ({ name, address }) => {
          const transport = stack.use(createGrpcTransport(address, runtime, name))
          return createClient(ToolProviderService, transport)
        },
      },
    ),
  )
  await service.start(AbortSignal.timeout(30_000))
  const target = { routes: service.routes, runtime }
  tools = { execution: testClient(ExecutionService, target, "orchestrator") }
  await vi.waitFor(
    () => Promise.all(["hostile", "batching", "good"].map((name) => act("good", `${name}/act`))),
    30_000,
  )
}, 60_000)

afterAll(() => stack.disposeAsync())

describe("a hostile provider", () => {
  it.each([
    "hang",
    "answer twice",
    "answer late",
    "endless answers",
    "endless empty frames",
    "one byte a second",
  ])("that does '%s' costs its calls their time, and no more", async (what) => {
    const startedAt = performance.now()
    expectLost(await misbehave(what, { timeoutMs: shortMs }))
    expect(performance.now() - startedAt).toBeLessThan(shortMs + patienceMs)
  })

  it.each([
    "crash",
    "reset",
    "status 200 and no more",
    "no trailers",
    "unheard-of status",
    "no number for a status",
    "success and no message",
    "headers of 8 MiB",
    "answer and crash",
    "answer and reset",
    "half an answer",
    "no gzip at all",
    "no protobuf",
    "invalid UTF-8",
    "nested 50,000 deep",
  ])(
    "that does '%s' leaves an unsafe call unknown, and a reading one to be repeated",
    async (what) => {
      expectLost(await misbehave(what))
    },
  )

  it.each([
    "100 MB",
    "100 MB that it calls small",
    "4 GB announced",
    "100 MB in 100 KB of gzip",
    "a million empty values",
  ])("that does '%s' is not read to the end, and not asked again", async (what) => {
    const { unsafe, reading } = await misbehave(what)
    expect(unsafe.execution?.state).toBe(OUTCOME_UNKNOWN)
    expect(reading.execution?.state).toBe(FAILED)
    expect(reading.execution?.outcome).toMatchObject({ value: { reason: "result_too_large" } })
  })

  it("whose result has another shape has it refused", async () => {
    const { unsafe, reading } = await misbehave("another shape")
    for (const { execution } of [unsafe, reading]) {
      expect(execution?.outcome).toMatchObject({ value: { reason: "result_invalid" } })
    }
  })

  it("that dawdles within the deadline is waited for", async () => {
    const { execution } = await act("one byte at a time")
    expect(execution?.outcome).toMatchObject({ case: "result", value: { ok: true } })
  })

  it.each([
    "an answer for each, and other ones after it",
    "an answer for a call that nobody made",
    "answers without end",
  ])("that gives a batch %s is heard where it answers", async (what) => {
    const { unsafe, reading } = await misbehave(what, { provider: "batching" })
    for (const { execution } of [unsafe, reading]) {
      expect(execution?.outcome).toMatchObject({ case: "result", value: { ok: true } })
    }
  })

  it.each([
    "no answers",
    "no answers, without end",
    "no batch of answers",
    "answers that are no protobuf",
  ])("that gives a batch %s leaves its calls as it leaves single ones", async (what) => {
    expectLost(await misbehave(what, { provider: "batching" }))
  })

  it("that gives a batch nothing costs its calls their time, and no more", async () => {
    expectLost(await misbehave("nothing", { provider: "batching", timeoutMs: shortMs }))
  })

  it("that gives a batch answers with a million empty values is not read to the end", async () => {
    const { unsafe, reading } = await misbehave("answers with a million empty values", {
      provider: "batching",
    })
    expect(unsafe.execution?.state).toBe(OUTCOME_UNKNOWN)
    expect(reading.execution?.outcome).toMatchObject({ value: { reason: "result_too_large" } })
  })
})

type Outcomes = Awaited<ReturnType<typeof misbehave>>

function expectLost({ unsafe, reading }: Outcomes): void {
  expect(unsafe.execution?.state).toBe(OUTCOME_UNKNOWN)
  expect(reading.execution?.state).toBe(IN_FLIGHT)
  expect(reading.failedAttempt?.fault).toBe(AttemptFault.LOST)
}

/** Two calls at once, while those of another provider go on: what they cost, and how they end. */
async function misbehave(what: string, { provider = "hostile", timeoutMs = longMs } = {}) {
  const others = goOn()
  const memory = watchMemory()
  const [unsafe, reading] = await Promise.all([
    act(what, `${provider}/act`, timeoutMs),
    act(what, `${provider}/look`, timeoutMs),
  ])
  await others.stop()
  expect(memory.stop() / MiB).toBeLessThan(32)
  expect(said.filter((line) => line === what).length).toBe(2)
  // Nothing of it is still being read.
  await vi.waitFor(
    () => expect(said.filter((line) => line === `closed ${what}`).length).toBe(2),
    patienceMs,
  )
  return { unsafe, reading }
}

/** By how many bytes the process grew at most, but for what it left lying about. */
function watchMemory() {
  collectGarbage()
  const before = process.memoryUsage.rss()
  let peak = before
  const look = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 5)
  const tidy = setInterval(collectGarbage, 200)
  return {
    stop() {
      clearInterval(look)
      clearInterval(tidy)
      return peak - before
    },
  }
}

/** Calls the provider that behaves, again and again. Stops with the first call that fails. */
function goOn() {
  const done = new AbortController()
  const calling = (async () => {
    while (!done.signal.aborted) {
      const { execution } = await act("good", "good/look")
      expect(execution?.outcome.case).toBe("result")
      await sleep(20)
    }
  })()
  return {
    stop() {
      done.abort()
      return calling
    },
  }
}

async function act(what: string, tool = "hostile/act", timeoutMs = longMs) {
  return execute(tools, await callOf(tools, tool, { do: what }), { timeoutMs })
}

async function startHostile(...args: readonly string[]): Promise<string> {
  const program = join(import.meta.dirname, "../../../mesh/fixtures/hostile-provider.ts")
  const child: ChildProcessByStdio<null, Readable, null> = spawn(
    process.execPath,
    [program, ...args],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  )
  stack.defer(() => void child.kill("SIGKILL"))
  const lines = createInterface({ input: child.stdout })
  const port = await new Promise<string>((resolve) => lines.once("line", resolve))
  lines.on("line", (line) => said.push(line))
  return `127.0.0.1:${port}`
}
