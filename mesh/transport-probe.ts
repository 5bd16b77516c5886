/** A service whose every answer a test chooses, and the ways to reach it. For tests and benches. */
import type { ServiceImpl, Transport } from "@connectrpc/connect"
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createEdgeServer, type EdgeServerOptions } from "./edge-server.ts"
import { RunwardenError } from "./errors.ts"
import { createGrpcTransport as createMeshTransport } from "./grpc-client.ts"
import { createGrpcServer, type GrpcServerOptions } from "./grpc-server.ts"
import { type Caller, callerKey, memberSubject } from "./identity.ts"
import { serverInterceptors } from "./interceptors.ts"
import { createLocalTransport } from "./local-transport.ts"
import { type Route, route } from "./service.ts"
import { testRuntime } from "./testing.ts"

type RunHandlers = ServiceImpl<typeof RunService>

/** Handlers that a test may replace at any time; those it leaves fail. */
export interface Probe {
  readonly route: Route
  getRun: RunHandlers["getRun"]
  watchRun: RunHandlers["watchRun"]
}

/** Creates a probe that answers GetRun with the run's id and WatchRun with three events. */
export function createProbe(): Probe {
  const unused = () => Promise.reject(new RunwardenError("INTERNAL"))
  const probe: Probe = {
    getRun: (request) => ({ run: { runId: request.runId, workspaceId: request.workspaceId } }),
    async *watchRun() {
      for (const sequence of [1n, 2n, 3n]) yield { event: { sequence } }
    },
    route: route(RunService, {
      getRun: (request, context) => probe.getRun(request, context),
      watchRun: (request, context) => probe.watchRun(request, context),
      startRun: unused,
      listRuns: unused,
      cancelRun: unused,
      releaseRun: unused,
      listRunEvents: unused,
    }),
  }
  return probe
}

/** The workspace, run and subject of a probe's calls. */
export const probeWorkspace = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"
export const probeRun = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a52"
export const probeSubject = memberSubject(probeWorkspace, "actor", Role.MEMBER)
/** The key that the probe's edge accepts. */
export const probeKey = "Bearer probe"

/** Serves a probe at an edge whose gate knows one key. */
export async function startProbeEdge(
  probe: Probe,
  options: Partial<EdgeServerOptions> = {},
): Promise<AsyncDisposable & { readonly port: number }> {
  const runtime = testRuntime("orchestrator")
  const caller: Caller = { ...probeSubject, issuer: "gateway" }
  const server = createEdgeServer({
    routes: (router) => router.service(probe.route.service, probe.route.implementation),
    interceptors: serverInterceptors(runtime),
    requestGate(context) {
      if (context.requestHeader.get("authorization") !== probeKey) {
        throw new RunwardenError("UNAUTHENTICATED")
      }
      context.values.set(callerKey, caller)
    },
    listen: "127.0.0.1:0",
    runtime,
    ...options,
  })
  const { port } = await server.start()
  return { port, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

/** Serves a probe at a gRPC port. */
export async function startProbeGrpc(
  probe: Probe,
  options: Partial<GrpcServerOptions> = {},
): Promise<AsyncDisposable & { readonly port: number }> {
  const server = createGrpcServer(
    { routes: [probe.route], runtime: testRuntime("orchestrator") },
    { listen: "127.0.0.1:0", ...options },
  )
  const { port } = await server.start()
  return { port, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

/** Every way in which a probe can be called. */
export const transportKinds = [
  "local",
  "grpc",
  "edge connect binary",
  "edge connect json",
  "edge connect json over HTTP/1.1",
  "edge grpc",
  "edge grpc-web",
] as const
export type TransportKind = (typeof transportKinds)[number]

/** A transport to a probe, and what it needs to run. */
export async function connectProbe(
  kind: TransportKind,
  probe: Probe,
): Promise<AsyncDisposable & { readonly transport: Transport }> {
  const gateway = testRuntime("gateway")
  await using stack = new AsyncDisposableStack()
  const open = async (): Promise<Transport> => {
    if (kind === "local") {
      const target = { routes: [probe.route], runtime: testRuntime("orchestrator") }
      return createLocalTransport(target, gateway)
    }
    if (kind === "grpc") {
      const { port } = stack.use(await startProbeGrpc(probe))
      return stack.use(createMeshTransport(`127.0.0.1:${port}`, gateway, "orchestrator"))
    }
    const { port } = stack.use(await startProbeEdge(probe, { limits: { drainMs: 500 } }))
    return edgeTransport(kind, port)
  }
  const transport = await open()
  const kept = stack.move()
  return { transport, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

function edgeTransport(kind: TransportKind, port: number): Transport {
  const common = {
    baseUrl: `http://127.0.0.1:${port}`,
    interceptors: [
      (next: (request: never) => never) => (request: { readonly header: Headers }) => {
        request.header.set("authorization", probeKey)
        return next(request as never)
      },
    ] as never[],
  }
  switch (kind) {
    case "edge grpc":
      return createGrpcTransport(common)
    case "edge grpc-web":
      return createGrpcWebTransport({ ...common, httpVersion: "2" })
    case "edge connect json over HTTP/1.1":
      return createConnectTransport({ ...common, httpVersion: "1.1", useBinaryFormat: false })
    case "edge connect json":
      return createConnectTransport({ ...common, httpVersion: "2", useBinaryFormat: false })
    default:
      return createConnectTransport({ ...common, httpVersion: "2", useBinaryFormat: true })
  }
}
