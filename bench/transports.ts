/**
 * What one call costs on each way that the mesh has: `node bench/transports.ts`. Both ends run in
 * this one process, 64 calls in flight, about 100 bytes each way. Rounds of all cases alternate, so
 * that what else the machine does hits all alike; the table shows medians.
 */
import { cpus } from "node:os"
import { create, toBinary } from "@bufbuild/protobuf"
import { createContextValues } from "@connectrpc/connect"
import Table from "cli-table3"
import {
  GetRunRequestSchema,
  GetRunResponseSchema,
  RunService,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { actingAs, hopTokenKey, subjectKey } from "../mesh/identity.ts"
import { clientInterceptors, serverInterceptors } from "../mesh/interceptors.ts"
import { compose, serveMethods, unaryRequest } from "../mesh/method-chain.ts"
import { testRuntime } from "../mesh/testing.ts"
import {
  connectProbe,
  createProbe,
  probeRun,
  probeSubject,
  probeWorkspace,
  type TransportKind,
} from "../mesh/transport-probe.ts"

interface Case {
  readonly name: string
  readonly calls: number
  readonly call: () => Promise<unknown>
}

interface Cost {
  readonly wallMicros: number
  readonly cpuMicros: number
}

const rounds = 5
const inFlight = 64
const noHeader = new Headers()
const message = create(GetRunRequestSchema, { workspaceId: probeWorkspace, runId: probeRun })
const answer = create(GetRunResponseSchema, {
  run: { workspaceId: probeWorkspace, runId: probeRun, requesterId: "x".repeat(20) },
})

await using stack = new AsyncDisposableStack()
const cases = [...(await wholeCalls()), ...serverParts(), ...clientParts()]
const costs = new Map(cases.map((item) => [item.name, [] as Cost[]]))
for (const item of cases) await measure(item)
for (let round = 0; round < rounds; round += 1) {
  for (const item of cases) costs.get(item.name)?.push(await measure(item))
}
report()

async function wholeCalls(): Promise<Case[]> {
  const kinds: readonly (readonly [TransportKind, number])[] = [
    ["local", 10_000],
    ["grpc", 1_000],
    ["edge connect binary", 700],
    ["edge connect json", 700],
    ["edge grpc", 500],
  ]
  const found: Case[] = []
  for (const [kind, calls] of kinds) {
    const { transport } = stack.use(await connectProbe(kind, answering()))
    const client = createMeshClient(RunService, transport)
    found.push({ name: kind, calls, call: () => client.getRun(message, actingAs(probeSubject)) })
  }
  return found
}

/** The server's chain with one interceptor more each time; the difference is what one costs. */
function serverParts(): Case[] {
  const runtime = testRuntime("orchestrator")
  const { signer } = testRuntime("gateway")
  const names = [
    "handler alone",
    "trace: one span",
    "errors",
    "deadline",
    "identity",
    "access",
    "validation",
  ]
  return names.map((name, count) => {
    const interceptors = serverInterceptors(runtime, "process").slice(0, count)
    const served = serveMethods([answering().route], interceptors, "local")
    const method = served.get(`${RunService.typeName}/GetRun`)
    if (method === undefined) throw new Error("the probe serves GetRun")
    return {
      name: `  server: ${count === 0 ? "" : "+ "}${name}`,
      calls: 8_000,
      async call() {
        // Signed anew only when it is about to expire; asking costs about a microsecond.
        const token = await signer.sign(probeSubject, "orchestrator")
        await method.call(request(token))
      },
    }
  })
}

function clientParts(): Case[] {
  const interceptors = clientInterceptors(testRuntime("gateway"), "orchestrator", "process")
  const names = ["nothing", "trace: one span", "errors", "signing"]
  return names.map((name, count) => {
    const send = compose(interceptors.slice(0, count), (sent) =>
      Promise.resolve({ ...sent, message: answer, trailer: sent.header } as never),
    )
    return {
      name: `  client: ${count === 0 ? "" : "+ "}${name}`,
      calls: 8_000,
      call: () => send(request()),
    }
  })
}

function request(token?: string) {
  return unaryRequest(RunService.method.getRun, message, {
    url: "local:///",
    signal: new AbortController().signal,
    header: noHeader,
    contextValues: createContextValues().set(subjectKey, probeSubject).set(hopTokenKey, token),
  })
}

function answering() {
  const probe = createProbe()
  probe.getRun = () => answer
  return probe
}

async function measure({ call, calls }: Case): Promise<Cost> {
  let left = calls
  const cpu = process.cpuUsage()
  const start = performance.now()
  const worker = async () => {
    while (left > 0) {
      left -= 1
      await call()
    }
  }
  await Promise.all(Array.from({ length: inFlight }, worker))
  const { user, system } = process.cpuUsage(cpu)
  return {
    wallMicros: ((performance.now() - start) * 1_000) / calls,
    cpuMicros: (user + system) / calls,
  }
}

function report(): void {
  const bytes = [
    toBinary(GetRunRequestSchema, message).byteLength,
    toBinary(GetRunResponseSchema, answer).byteLength,
  ]
  console.log(
    `node ${process.version}, ${cpus().length} x ${cpus()[0]?.model}, ${process.platform}`,
  )
  console.log(`${inFlight} in flight, ${bytes.join(" and ")} bytes, medians of ${rounds} rounds`)
  const table = new Table({ head: ["call", "wall µs", "cpu µs", "lowest cpu µs"] })
  for (const [name, found] of costs) {
    const cpu = found.map((cost) => cost.cpuMicros)
    const wall = found.map((cost) => cost.wallMicros)
    table.push([name, median(wall).toFixed(1), median(cpu).toFixed(1), Math.min(...cpu).toFixed(1)])
  }
  console.log(table.toString())
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
