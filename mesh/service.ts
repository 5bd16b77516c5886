import type { DescService } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import type { Tracer } from "@opentelemetry/api"
import type { Logger } from "pino"
import type { ServiceName, Signer, Verifier } from "./identity.ts"

/** One proto service and the handlers that serve it. */
export interface Route {
  readonly service: DescService
  readonly implementation: ServiceImpl<DescService>
}

/** Binds handlers to their proto service; a forgotten RPC does not compile. */
export function route<S extends DescService>(service: S, implementation: ServiceImpl<S>): Route {
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
}
