// What only some transports have: limits of single methods where there are bytes, freezing where there are none.
import { expect, test } from "vitest"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createMeshClient } from "./client.ts"
import { createGatewayTransport } from "./client-transport.ts"
import { metadataOf, reasonOf } from "./errors.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { actingAs } from "./identity.ts"
import { createLocalTransport } from "./local-transport.ts"
import { testRuntime } from "./testing.ts"
import {
  createProbe,
  probeRun,
  probeSubject,
  probeWorkspace,
  startProbeEdge,
  startProbeGrpc,
} from "./transport-probe.ts"

const readLimits = { "runwarden.orchestrator.v1.RunService/GetRun": 100 }
const small = { workspaceId: probeWorkspace, runId: probeRun }
const large = { ...small, runId: "x".repeat(200) }

test.each(["gRPC", "the edge"])("one method's limit holds for it alone, over %s", async (over) => {
  await using stack = new AsyncDisposableStack()
  const open = async () => {
    if (over === "gRPC") {
      const { port } = stack.use(await startProbeGrpc(createProbe(), { readLimits, drainMs: 200 }))
      const target = `127.0.0.1:${port}`
      return stack.use(createGrpcTransport(target, testRuntime("gateway"), "orchestrator"))
    }
    const limits = { drainMs: 200 }
    const { port } = stack.use(await startProbeEdge(createProbe(), { readLimits, limits }))
    return createGatewayTransport({ url: `http://127.0.0.1:${port}`, apiKey: "probe" })
  }
  const client = createMeshClient(RunService, await open())
  const refusal = (call: Promise<unknown>) => call.catch((error: unknown) => error)
  expect((await client.getRun(small, actingAs(probeSubject))).run?.runId).toBe(probeRun)
  const tooLarge = await refusal(client.getRun(large, actingAs(probeSubject)))
  expect(reasonOf(tooLarge)).toBe("REQUEST_TOO_LARGE")
  expect(metadataOf(tooLarge)).toEqual({ limit_bytes: "100" })
  // Another method takes as much, and says what else is wrong with it.
  const other = await refusal(client.cancelRun(large, actingAs(probeSubject)))
  expect(reasonOf(other)).toBe("INVALID_REQUEST")
})

test("frozen, what one side changes of a shared message throws", async () => {
  const probe = createProbe()
  const kept = { run: { runId: probeRun, workspaceId: probeWorkspace } }
  probe.getRun = (request) => {
    expect(() => Object.assign(request, { runId: "changed" })).toThrow(TypeError)
    return kept
  }
  probe.watchRun = async function* (request) {
    expect(() => Object.assign(request, { runId: "changed" })).toThrow(TypeError)
    yield { event: { sequence: 1n } }
  }
  const target = { routes: [probe.route], runtime: testRuntime("orchestrator") }
  const transport = createLocalTransport(target, testRuntime("gateway"), { freeze: true })
  const client = createMeshClient(RunService, transport)
  const { run } = await client.getRun(small, actingAs(probeSubject))
  expect(run?.runId).toBe(probeRun)
  expect(() => Object.assign(run ?? {}, { runId: "changed" })).toThrow(TypeError)
  for await (const { event } of client.watchRun(small, actingAs(probeSubject))) {
    expect(Object.isFrozen(event)).toBe(true)
  }
})
