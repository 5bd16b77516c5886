import type { DescService } from "@bufbuild/protobuf"
import type { Client, ServiceImpl, Transport } from "@connectrpc/connect"
import type { Tracer } from "@opentelemetry/api"
import type { Logger } from "pino"
import type { Environment } from "./config.ts"
import type { Signer, Verifier } from "./hop-tokens.ts"
import type { ServiceName } from "./identity.ts"
import type { KillPoint } from "./kill-points.ts"
import type { MethodLimits } from "./server-limits.ts"

/** One proto service and the handlers that serve it. */
export interface Route {
  readonly service: DescService
  readonly implementation: ServiceImpl<DescService>
}

/**
 * The handlers that a service writes: one for each RPC, except that the mesh serves `BatchX` from
 * the handler of `X`.
 */
export type Handlers<S extends DescService> = Omit<ServiceImpl<S>, BatchName<S>>

type BatchName<S extends DescService> = {
  [K in keyof S["method"]]: K extends `batch${infer X}`
    ? S["method"][K] extends { methodKind: "server_streaming" }
      ? Uncapitalize<X> extends keyof S["method"]
        ? K
        : never
      : never
    : never
}[keyof S["method"]]

/** Binds handlers to their proto service; a forgotten RPC does not compile. */
export function route<S extends DescService>(service: S, implementation: Handlers<S>): Route {
  return { service, implementation: implementation as unknown as ServiceImpl<DescService> }
}

/**
 * What `createX(config, deps)` of a service returns. `start` migrates and verifies its database and
 * starts its workers; it rejects when the service must not serve. Disposal stops the workers, lets
 * what runs finish or hands it back, and releases everything in reverse order of construction.
 */
export interface Service extends AsyncDisposable {
  readonly routes: readonly Route[]
  start(signal: AbortSignal): Promise<void>
}

/** What every service stands on: its name, its identity, its tracer and its log. */
export interface Runtime {
  readonly name: ServiceName
  readonly signer: Signer
  readonly verifier: Verifier
  readonly tracer: Tracer
  readonly log: Logger
  /** Does nothing outside tests of crashes; see `kill-points.ts`. */
  reached(point: KillPoint): void
}

/** How a service reaches the others, whatever carries the calls. */
export interface Peers {
  /** A typed client of a service of the mesh. */
  connect<S extends DescService>(service: S, peer: ServiceName): Client<S>
  /** The transport to a service of the mesh, for forwarding. */
  transport(peer: ServiceName): Transport
  /** A transport to any other target that takes this mesh's identity, such as a tool provider. */
  transportTo(address: string, audience: string): Transport
}

/**
 * A service as something that starts: what its own process and the mesh in one process need to
 * know of it.
 */
export interface ServiceModule<Config = unknown, S extends Service = Service> {
  readonly name: ServiceName
  /** Bytes of a request, for the methods that take more than the default of `server-limits.ts`. */
  readonly readLimits?: MethodLimits
  /** Pure; throws one ConfigError with every problem. */
  readConfig(env: Environment): Config
  create(config: Config, runtime: Runtime, peers: Peers): S
}
