// The channel by itself: replicas that die, connections that grow old, what is repeated and what not.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { Code } from "@connectrpc/connect"
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js"
import { expect, test } from "vitest"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createMeshClient } from "./client.ts"
import { RunwardenError, reasonOf } from "./errors.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { actingAs } from "./identity.ts"
import { encodeTrustedKeys } from "./keys.ts"
import { testKeys, testRuntime, until } from "./testing.ts"
import {
  createProbe,
  type Probe,
  probeRun,
  probeSubject,
  probeWorkspace,
  startProbeGrpc,
} from "./transport-probe.ts"

const message = { workspaceId: probeWorkspace, runId: probeRun }

/** A client of these ports, and the reasons of its calls that failed while it called without pause. */
async function caller(ports: readonly number[], inFlight: number) {
  const target = `ipv4:${ports.map((port) => `127.0.0.1:${port}`).join(",")}`
  const transport = createGrpcTransport(target, testRuntime("gateway"), "orchestrator")
  const client = createMeshClient(RunService, transport)
  const seen = { answers: 0, failures: [] as unknown[] }
  let isOver = false
  const worker = async () => {
    while (!isOver) {
      try {
        await client.getRun(message, actingAs(probeSubject))
        seen.answers += 1
      } catch (error) {
        seen.failures.push(reasonOf(error))
      }
    }
  }
  const workers = Array.from({ length: inFlight }, worker)
  return {
    seen,
    async [Symbol.asyncDispose]() {
      isOver = true
      await Promise.all(workers)
      await transport[Symbol.asyncDispose]()
    },
  }
}

/** On a busy machine a process takes its time to start. */
const patient = { timeoutMs: 25_000 }

/** A replica in a process of its own. */
async function startReplica() {
  const script = join(import.meta.dirname, "fixtures", "grpc-server-child.ts")
  const child = spawn(process.execPath, [script, encodeTrustedKeys(testKeys.trusted)], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  const [port] = await once(child.stdout, "data")
  return {
    port: Number(String(port)),
    kill: () => child.kill("SIGKILL"),
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL")
    },
  }
}

/** A probe that takes a moment, so that calls are under way when their server dies, and counts. */
function slowProbe(): { readonly probe: Probe; calls: number } {
  const counted = { probe: createProbe(), calls: 0 }
  counted.probe.getRun = async () => {
    counted.calls += 1
    await new Promise((resolve) => setTimeout(resolve, 5))
    return { run: { runId: probeRun } }
  }
  return counted
}

test("no call that may be repeated fails when one of two replicas is killed", async () => {
  const staying = slowProbe()
  await using one = await startProbeGrpc(staying.probe, { drainMs: 200 })
  await using two = await startReplica()
  await using calling = await caller([one.port, two.port], 32)
  // In turn: the other replica has answered as many.
  await until(() => staying.calls > 200 && calling.seen.answers - staying.calls > 150, patient)
  two.kill()
  const atDeath = calling.seen.answers
  await until(() => calling.seen.answers > atDeath + 500, patient)
  expect(calling.seen.failures).toEqual([])
}, 60_000)

test("no call fails while connections end by their age", async () => {
  const { probe } = slowProbe()
  await using server = await startProbeGrpc(probe, { drainMs: 200, maxConnectionAgeMs: 100 })
  await using calling = await caller([server.port], 8)
  const end = Date.now() + 1_500
  await until(() => Date.now() > end)
  expect(calling.seen.failures).toEqual([])
  expect(calling.seen.answers).toBeGreaterThan(100)
})

test("a call whose token is good for one call is not repeated", async () => {
  const probe = createProbe()
  let calls = 0
  probe.getRun = () => {
    calls += 1
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "x" })
  }
  await using server = await startProbeGrpc(probe, { drainMs: 200 })
  const target = `127.0.0.1:${server.port}`
  await using transport = createGrpcTransport(target, testRuntime("gateway"), "orchestrator")
  const call = { runId: probeRun, stepIndex: 1, digest: "ab".repeat(32) }
  const failure = createMeshClient(RunService, transport)
    .getRun(message, actingAs(probeSubject, { call }))
    .catch((error: unknown) => reasonOf(error))
  expect(await failure).toBe("DEPENDENCY_UNAVAILABLE")
  expect(calls).toBe(1)
})

test("an answer of no message, or of two, is no proof that the call never ran", async () => {
  const { method } = RunService
  const path = `/${RunService.typeName}/${method.getRun.name}`
  for (const count of [0, 2]) {
    const server = new Server()
    const bytes = (message: Buffer) => message
    server.register(
      path,
      (call: ServerWritableStream<Buffer, Buffer>) => {
        for (let n = 0; n < count; n++) call.write(Buffer.alloc(0))
        call.end()
      },
      bytes,
      bytes,
      "serverStream",
    )
    const { promise, resolve } = Promise.withResolvers<number>()
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (_, port) => resolve(port))
    const transport = createGrpcTransport(
      `127.0.0.1:${await promise}`,
      testRuntime("gateway"),
      "orchestrator",
    )
    const client = createMeshClient(RunService, transport)
    const call = client.getRun(message, actingAs(probeSubject, { timeoutMs: 500 }))
    // grpc-js leaves the answer of two unanswered.
    const code = count === 0 ? Code.Internal : Code.DeadlineExceeded
    await expect(call).rejects.toMatchObject({ code })
    await transport[Symbol.asyncDispose]()
    server.forceShutdown()
  }
})
