/**
 * All seven services in one process: what `npm start` runs and what tests stand on.
 *
 * Owns: the keys by which the services know each other (fresh unless given), the order in which
 * they start, and the transport between them. `wire` chooses it: direct calls, or gRPC over
 * loopback sockets, one port per service, as when each is a process of its own.
 */
import type { Transport } from "@connectrpc/connect"
import type { SpanExporter } from "@opentelemetry/sdk-trace"
import type { Logger } from "pino"
import { createMeshClient } from "../../mesh/client.ts"
import type { Environment } from "../../mesh/config.ts"
import { createGrpcTransport } from "../../mesh/grpc-client.ts"
import { createGrpcServer, type GrpcServer } from "../../mesh/grpc-server.ts"
import { createSigner, createVerifier } from "../../mesh/hop-tokens.ts"
import type { ServiceName } from "../../mesh/identity.ts"
import { generateMeshKeys, type MeshKeys } from "../../mesh/keys.ts"
import { goOn } from "../../mesh/kill-points.ts"
import { createLocalTransport, type LocalTarget } from "../../mesh/local-transport.ts"
import type { Peers, Runtime, Service, ServiceModule } from "../../mesh/service.ts"
import { createTracing } from "../../mesh/tracing.ts"
import { type Gateway, gatewayModule } from "../gateway/service.ts"
import { moderationModule } from "../moderation/service.ts"
import { orchestratorModule } from "../orchestrator/service.ts"
import { projectsModule } from "../projects/service.ts"
import { retrievalModule } from "../retrieval/service.ts"
import { telemetryModule } from "../telemetry/service.ts"
import { toolsModule } from "../tools/service.ts"

export interface MeshOptions {
  /** The environment of all services, their database URLs included. */
  readonly env: Environment
  readonly log: Logger
  /** How the services reach each other; direct calls unless told otherwise. */
  readonly wire?: "local" | "grpc"
  /** Where the spans of all services go. */
  readonly exporter?: SpanExporter
  /** The share of traces that are recorded; all unless told otherwise. */
  readonly traceShare?: number
  /** Keys from outside: those that local mode keeps, or a test signs with. */
  readonly keys?: MeshKeys
  /** Providers in this process, by the names under which `TOOLS_PROVIDERS` has them. */
  readonly providers?: ReadonlyMap<string, LocalTarget>
}

export interface Mesh extends AsyncDisposable {
  /** Starts every service; with `wire: "grpc"` their ports first. */
  start(signal: AbortSignal): Promise<void>
  readonly gateway: Gateway
  /** A service as a local transport reaches it. */
  target(name: ServiceName): LocalTarget
  /** The address of a service's own port; only with `wire: "grpc"`, after `start`. */
  address(name: ServiceName): string
}

interface Started extends LocalTarget {
  readonly service: Service
  /** Its own port, where the wire is gRPC. */
  readonly server: GrpcServer | undefined
}

/** Creates the mesh. Nothing connects before `start`. */
export function createMesh(options: MeshOptions): Mesh {
  const { env, log, exporter, wire = "local", keys = generateMeshKeys() } = options
  const providers = options.providers ?? new Map<string, LocalTarget>()
  const stack = new AsyncDisposableStack()
  // Released last: services that stop still finish what they asked of others.
  const connections = stack.use(new AsyncDisposableStack())
  const targets = new Map<ServiceName, Started>()
  const addresses = new Map<ServiceName, string>()

  function target(name: ServiceName): Started {
    const found = targets.get(name)
    if (found === undefined) throw new Error(`${name} is not part of this mesh`)
    return found
  }

  function address(name: ServiceName): string {
    const found = addresses.get(name)
    if (found === undefined) throw new Error(`${name} does not listen`)
    return found
  }

  function peersOf(runtime: Runtime): Peers {
    const transports = new Map<ServiceName, Transport>()
    function transport(peer: ServiceName): Transport {
      const held = transports.get(peer)
      if (held !== undefined) return held
      const made = lateTransport(() =>
        wire === "local"
          ? createLocalTransport(target(peer), runtime)
          : connections.use(createGrpcTransport(address(peer), runtime, peer)),
      )
      transports.set(peer, made)
      return made
    }
    return {
      transport,
      connect: (service, peer) => createMeshClient(service, transport(peer)),
      transportTo(to, audience) {
        if (targets.has(audience as ServiceName)) return transport(audience as ServiceName)
        const provider = providers.get(audience)
        return provider === undefined
          ? connections.use(createGrpcTransport(to, runtime, audience))
          : createLocalTransport(provider, runtime)
      },
    }
  }

  function add<Config, S extends Service>(module: ServiceModule<Config, S>): S {
    const { name } = module
    const privateKey = keys.private.get(name)
    if (privateKey === undefined) throw new Error(`no key for ${name}`)
    const runtime: Runtime = {
      name,
      signer: createSigner(name, privateKey),
      verifier: createVerifier(name, keys.trusted),
      tracer: stack.use(createTracing(name, exporter, options.traceShare)).tracer,
      log: log.child({ service: name }),
      reached: goOn,
    }
    const service = stack.use(module.create(module.readConfig(env), runtime, peersOf(runtime)))
    // Released before its service: no call comes in while that hands back what it was at.
    const server = wire === "local" ? undefined : stack.use(serverOf(module, service, runtime))
    targets.set(name, { routes: service.routes, runtime, service, server })
    return service
  }

  // Those that others need come first, and are released last.
  add(telemetryModule)
  add(moderationModule)
  add(retrievalModule)
  add(projectsModule)
  add(toolsModule)
  add(orchestratorModule)
  const gateway = add(gatewayModule)

  return {
    gateway,
    target,
    address,
    async start(signal) {
      for (const [name, { server }] of targets) {
        if (server !== undefined) addresses.set(name, `127.0.0.1:${(await server.start()).port}`)
      }
      // A service needs the others' answers while it works, not while it starts.
      await Promise.all([...targets.values()].map(({ service }) => service.start(signal)))
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

function serverOf(
  { readLimits }: Pick<ServiceModule, "readLimits">,
  { routes }: Service,
  runtime: Runtime,
): GrpcServer {
  return createGrpcServer(
    { routes, runtime },
    { listen: "127.0.0.1:0", ...(readLimits === undefined ? {} : { readLimits }) },
  )
}

/** A transport that is made at its first call, when its target exists. */
function lateTransport(make: () => Transport): Transport {
  let made: Transport | undefined
  const transport = () => {
    made ??= make()
    return made
  }
  return {
    unary: (...args) => transport().unary(...args),
    stream: (...args) => transport().stream(...args),
  }
}
