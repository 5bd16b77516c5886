/**
 * The server by which services reach each other: grpc-js underneath, the mesh's chain on top.
 *
 * Owns its listening socket, its health, and the calls that are under way.
 * States: created, serving (after `start`), draining (disposal: health NOT_SERVING, GOAWAY, streams
 * told SHUTTING_DOWN, unary calls finished), closed (all done, or forced after `drainMs`).
 *
 * 1. The identity is verified on the headers; a call without one is refused before its body is
 *    read. Only health asks for none.
 * 2. Every error that leaves carries an ErrorInfo, also those that grpc-js makes by itself.
 * 3. A handler's signal is aborted when the caller cancels, the deadline passes or its call fails.
 */
import type { DescMethodUnary } from "@bufbuild/protobuf"
import {
  type Metadata,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerOptions,
  status,
} from "@grpc/grpc-js"
import { batchOf } from "./batch-methods.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { type BatchedMethod, registerBatch } from "./grpc-batch-server.ts"
import { register, statusOf } from "./grpc-handlers.ts"
import { hasDetails, toStatus } from "./grpc-metadata.ts"
import { createHealth, type ServerHealth } from "./health.ts"
import { type Caller, identityHeader } from "./identity.ts"
import { outerInterceptors, requireAccessRules, serverInterceptors } from "./interceptors.ts"
import { handlerOf, serveMethods } from "./method-chain.ts"
import { serveUnary } from "./served-unary.ts"
import { largestLimit, type MethodLimits, meshLimits, writeMaxBytes } from "./server-limits.ts"
import type { Route, Runtime } from "./service.ts"

/** What a gRPC server serves. */
export interface GrpcTarget {
  readonly routes: readonly Route[]
  readonly runtime: Runtime
}

export interface GrpcServerOptions {
  /** `host:port`; port 0 takes a free one. Plaintext: the network between services is trusted. */
  readonly listen: string
  /** Methods that take more than `readMaxBytes`. */
  readonly readLimits?: MethodLimits
  /** After how long a drain becomes a cut; 15 s by default. */
  readonly drainMs?: number
  readonly maxConnectionAgeMs?: number
}

export interface GrpcServer extends AsyncDisposable {
  readonly health: ServerHealth
  /** Binds the port, becomes SERVING, and says which port it is. */
  start(): Promise<{ readonly port: number }>
}

/** Creates the gRPC server of a service. Its routes must all carry their access rules. */
export function createGrpcServer(target: GrpcTarget, options: GrpcServerOptions): GrpcServer {
  const { routes, runtime } = target
  const services = routes.map((route) => route.service)
  requireAccessRules(services)
  const health = createHealth(services.map((service) => service.typeName))
  const callers = new WeakMap<Metadata, Caller>()
  const streams = new Set<AbortController>()
  const open = serveMethods([health.route], outerInterceptors(runtime), "grpc")
  const guarded = serveMethods(routes, serverInterceptors(runtime), "grpc")

  const server = new Server({
    ...channelOptions(options),
    interceptors: [
      (method, call) => checkingCall(call, open.has(method.path.slice(1)), runtime, callers),
    ],
  })
  const context = { callers, streams, readLimits: options.readLimits ?? {} }
  for (const served of [...open.values(), ...guarded.values()]) register(server, served, context)
  for (const batched of batchedMethods(routes, runtime)) {
    registerBatch(server, batched, runtime, context)
  }

  let bound: string | undefined
  return {
    health,
    async start() {
      const { promise, resolve, reject } = Promise.withResolvers<number>()
      server.bindAsync(options.listen, ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      )
      const port = await promise
      bound = `${options.listen.slice(0, options.listen.lastIndexOf(":"))}:${port}`
      health.setServing(true)
      return { port }
    },
    async [Symbol.asyncDispose]() {
      health.setServing(false)
      const stopping = new RunwardenError("SHUTTING_DOWN", { service: runtime.name })
      const drained = Promise.withResolvers<void>()
      const drainMs = options.drainMs ?? meshLimits.drainMs
      // Cuts what is left after that time; `forceShutdown` forgets sessions when channelz is off.
      if (bound !== undefined) server.drain(bound, drainMs)
      server.tryShutdown(() => drained.resolve())
      // Streams would hold the drain up to its end; whoever reads one resumes at another replica.
      for (const stream of streams) stream.abort(stopping)
      // The timer of the cut does not keep the process alive; this one does.
      const timer = setTimeout(() => undefined, drainMs)
      await drained.promise
      clearTimeout(timer)
    },
  }
}

function channelOptions(options: GrpcServerOptions): ServerOptions {
  return {
    "grpc.max_receive_message_length": largestLimit(options.readLimits),
    "grpc.max_send_message_length": writeMaxBytes,
    "grpc.max_concurrent_streams": meshLimits.maxConcurrentStreams,
    "grpc.keepalive_time_ms": meshLimits.keepaliveTimeMs,
    "grpc.keepalive_timeout_ms": meshLimits.keepaliveTimeoutMs,
    "grpc.max_connection_age_ms": options.maxConnectionAgeMs ?? meshLimits.maxConnectionAgeMs,
    "grpc.max_connection_age_grace_ms": meshLimits.maxConnectionAgeGraceMs,
    "grpc-node.max_session_memory": meshLimits.maxSessionMemoryMb,
    "grpc.enable_channelz": 0,
  }
}

function batchedMethods(routes: readonly Route[], runtime: Runtime): readonly BatchedMethod[] {
  return routes.flatMap(({ service, implementation }) =>
    service.methods.flatMap((method) => {
      const batch = batchOf(method)
      if (batch === undefined || method.methodKind !== "unary") return []
      const unary = method as DescMethodUnary
      const handler = handlerOf(unary, implementation)
      return [{ batch, method: unary, serve: serveUnary(unary, handler, runtime, "grpc") }]
    }),
  )
}

/** Verifies the identity before the first read, and types the statuses that grpc-js makes. */
function checkingCall(
  call: ServerInterceptingCallInterface,
  isOpen: boolean,
  runtime: Runtime,
  callers: WeakMap<Metadata, Caller>,
): ServerInterceptingCall {
  const sendPlain = call.sendStatus.bind(call)
  // grpc-js answers a message that is too large or a deadline that passed from inside this call,
  // past every responder: only here are those statuses seen.
  call.sendStatus = (sent) => sendPlain(typed(sent))
  if (isOpen) return new ServerInterceptingCall(call)
  return new ServerInterceptingCall(call, {
    start(next) {
      next({
        onReceiveMetadata(metadata, accept) {
          verify(metadata, runtime).then(
            (caller) => {
              callers.set(metadata, caller)
              accept(metadata)
            },
            (error) => call.sendStatus(statusOf(error)),
          )
        },
      })
    },
  })
}

async function verify(metadata: Metadata, runtime: Runtime): Promise<Caller> {
  const tokens = metadata.get(identityHeader)
  const [token] = tokens
  if (tokens.length !== 1 || typeof token !== "string") throw new RunwardenError("UNAUTHENTICATED")
  return runtime.verifier.verify(token)
}

type SentStatus = Parameters<ServerInterceptingCallInterface["sendStatus"]>[0]

function typed(sent: SentStatus): SentStatus {
  if (sent.code === status.OK || hasDetails(sent.metadata)) return sent
  switch (sent.code) {
    case status.DEADLINE_EXCEEDED:
      return errorStatus(new RunwardenError("DEADLINE_EXCEEDED"))
    case status.RESOURCE_EXHAUSTED:
      return errorStatus(new RunwardenError("REQUEST_TOO_LARGE", { limit_bytes: "the allowed" }))
    case status.UNIMPLEMENTED:
      return errorStatus(malformed("its encoding is not supported"))
    case status.CANCELLED:
      return errorStatus(new RunwardenError("CANCELLED"))
    default:
      return errorStatus(new RunwardenError("INTERNAL"))
  }
}

function malformed(cause: string): RunwardenError {
  return new RunwardenError("MALFORMED_REQUEST", { cause })
}

function errorStatus(error: RunwardenError) {
  return toStatus(toConnectError(error))
}
