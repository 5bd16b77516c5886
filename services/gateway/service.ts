/**
 * The gateway: where the world comes in. It knows who may do what in which workspace and forwards
 * everything else.
 *
 * api-key.ts            the form of a key
 * authenticator.ts      a key becomes a principal; what is remembered of it, and for how long
 * catalog.ts            what is public, and which service is behind it
 * forwarding.ts         the check and the next hop of every public method
 * rest*.ts              the same methods by their REST paths
 * reachability.ts       what /healthz says
 * workspace-handlers.ts, membership-handlers.ts, api-key-handlers.ts   the gateway's own RPCs
 * *-store.ts            every SQL statement
 * bootstrap.ts          a workspace that must be there
 *
 * Trace context is taken over from clients (`traceparent`, `tracestate`), so that a client's trace
 * shows its runs; every other header ends here.
 */
import { fileURLToPath } from "node:url"
import type { Transport } from "@connectrpc/connect"
import { ApiKeyService } from "../../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { createEdgeServer } from "../../mesh/edge-server.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { ServiceName } from "../../mesh/identity.ts"
import { outerInterceptors } from "../../mesh/interceptors.ts"
import { createLocalTransport } from "../../mesh/local-transport.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { apiKeyHandlers } from "./api-key-handlers.ts"
import { createAuthenticator } from "./authenticator.ts"
import { ensureWorkspace, type SeededWorkspace, type WorkspaceSeed } from "./bootstrap.ts"
import { type GatewayConfig, readConfig } from "./config.ts"
import { forwardingRoutes, principalKey } from "./forwarding.ts"
import { membershipHandlers } from "./membership-handlers.ts"
import { createReachability } from "./reachability.ts"
import { createRest } from "./rest.ts"
import { startUseRecorder } from "./use-recorder.ts"
import { workspaceHandlers } from "./workspace-handlers.ts"

export interface GatewayDeps {
  readonly runtime: Runtime
  /** The way to each service behind the gateway; never asked for the gateway itself. */
  readonly upstream: (service: ServiceName) => Transport
}

/** The gateway's `routes` are its own RPCs, for its internal port; `start` opens the edge. */
export interface Gateway extends Service {
  /** Where the world reaches the gateway, such as `http://127.0.0.1:7100`. Throws before `start`. */
  readonly url: string
  /**
   * Creates what is missing of a workspace, its members and their keys, and leaves what exists.
   * Only after `start`.
   */
  ensureWorkspace(seed: WorkspaceSeed): Promise<SeededWorkspace>
}

const migrations = fileURLToPath(new URL("./migrations", import.meta.url))

/** Documents are larger than anything else that is sent. */
const documentBytes = 2 * 1024 * 1024
const limits = {
  "runwarden.retrieval.v1.IngestionService/IngestDocument": documentBytes,
  "runwarden.projects.v1.DocumentService/CreateDocument": documentBytes,
  "runwarden.projects.v1.DocumentService/UpdateDocument": documentBytes,
}

export const gatewayModule: ServiceModule<GatewayConfig, Gateway> = {
  name: "gateway",
  readConfig,
  create: (config, runtime, peers) =>
    createGateway(config, { runtime, upstream: (service) => peers.transport(service) }),
}

/** Creates the service. Nothing connects and nothing listens before `start`. */
export function createGateway(config: GatewayConfig, deps: GatewayDeps): Gateway {
  const { runtime } = deps
  const stack = new AsyncDisposableStack()
  const database = stack.use(openDatabase(config.database, { runtime, migrations }))
  const authenticator = createAuthenticator({
    database,
    cacheMs: config.membershipCacheMs,
    operatorKeyHash: config.operatorKeyHash,
  })
  const routes = [
    route(WorkspaceService, workspaceHandlers({ database })),
    route(MembershipService, membershipHandlers({ database, authenticator })),
    route(ApiKeyService, apiKeyHandlers({ database, authenticator })),
  ]
  const self = createLocalTransport({ routes, runtime }, runtime)
  const upstream = (name: ServiceName) => (name === "gateway" ? self : deps.upstream(name))
  const recheckMs = config.membershipCacheMs
  const publicRoutes = forwardingRoutes({ authenticator, upstream, recheckMs })
  const findAway = createReachability({ database, upstream })
  const stopping = new AbortController()
  const { signal: draining } = stopping
  const rest = createRest({
    runtime,
    routes: publicRoutes,
    authenticator,
    limits,
    findAway,
    draining,
  })
  let url: string | undefined
  return {
    routes,
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      stack.use(startUseRecorder({ authenticator, log: runtime.log }))
      const edge = stack.use(
        createEdgeServer({
          runtime,
          listen: config.listen,
          readLimits: limits,
          interceptors: outerInterceptors(runtime),
          async requestGate({ requestHeader, values }) {
            values.set(principalKey, await authenticator.authenticate(requestHeader))
          },
          routes(router) {
            for (const each of publicRoutes) router.service(each.service, each.implementation)
          },
          fallback: rest,
        }),
      )
      // Before the edge drains: it waits for what is under way, and a stream has no end of its own.
      stack.defer(() => stopping.abort(new RunwardenError("SHUTTING_DOWN", { service: "gateway" })))
      const { port } = await edge.start()
      url = baseUrl(config.listen, port)
    },
    get url() {
      if (url === undefined) throw new Error("the gateway has not started")
      return url
    },
    ensureWorkspace: (seed) => ensureWorkspace(database, seed),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** A URL by which this machine reaches the edge, whatever addresses it listens on. */
function baseUrl(listen: string, port: number): string {
  const host = listen.slice(0, listen.lastIndexOf(":"))
  if (host === "0.0.0.0") return `http://127.0.0.1:${port}`
  return `http://${host === "[::]" ? "[::1]" : host}:${port}`
}
