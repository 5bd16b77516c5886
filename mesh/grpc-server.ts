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
import {
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type Message,
  toBinary,
} from "@bufbuild/protobuf"
import { createContextValues, type StreamResponse, type UnaryResponse } from "@connectrpc/connect"
import {
  type Metadata,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerOptions,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js"
import { callSignal } from "./call-signal.ts"
import { deadlineKey } from "./deadline.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { hasDetails, toHeaders, toMetadata, toStatus } from "./grpc-metadata.ts"
import { createHealth, type ServerHealth } from "./health.ts"
import { type Caller, callerKey, identityHeader } from "./identity.ts"
import { outerInterceptors, requireAccessRules, serverInterceptors } from "./interceptors.ts"
import {
  type ArrivedCall,
  methodName,
  type ServedMethod,
  serveMethods,
  streamRequest,
  unaryRequest,
} from "./method-chain.ts"
import {
  largestLimit,
  type MethodLimits,
  meshLimits,
  readLimitOf,
  writeMaxBytes,
} from "./server-limits.ts"
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

interface CallContext {
  readonly callers: WeakMap<Metadata, Caller>
  readonly streams: Set<AbortController>
  readonly readLimits: MethodLimits
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

function register(server: Server, served: ServedMethod, context: CallContext): void {
  const { method } = served
  const definition: ServiceDefinition = {
    [method.name]: {
      path: `/${methodName(method)}`,
      requestStream: false,
      responseStream: method.methodKind === "server_streaming",
      requestSerialize: asBuffer,
      requestDeserialize: pass,
      responseSerialize: asBuffer,
      responseDeserialize: pass,
    },
  }
  const handler =
    method.methodKind === "unary"
      ? unaryHandler(method, served, context)
      : streamHandler(method, served, context)
  server.addService(definition, { [method.name]: handler } as UntypedServiceImplementation)
}

function unaryHandler(method: DescMethodUnary, served: ServedMethod, context: CallContext) {
  return (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
    const life = new AbortController()
    let isAnswered = false
    // Also emitted when the answer is out, when it means nothing.
    call.on("cancelled", () => {
      if (!isAnswered) life.abort(cancelReason(call))
    })
    const answer = async () => {
      const message = readMessage(method, call.request, context)
      const request = unaryRequest(method, message, arrived(method, call, life.signal, context))
      const { header, message: output, trailer } = (await served.call(request)) as UnaryResponse
      // Whatever of an answer cannot be written must fail here, where failures are answered.
      return {
        header: metadataOf(header),
        bytes: writeMessage(method, output),
        trailer: metadataOf(trailer),
      }
    }
    answer().then(
      ({ header, bytes, trailer }) => {
        isAnswered = true
        if (header !== undefined) call.sendMetadata(header)
        callback(null, bytes, trailer)
      },
      (error) => {
        isAnswered = true
        life.abort(error)
        callback(statusOf(error))
      },
    )
  }
}

function streamHandler(
  method: DescMethodServerStreaming,
  served: ServedMethod,
  context: CallContext,
) {
  return (call: ServerWritableStream<Buffer, Buffer>) => {
    const arrival = new AbortController()
    context.streams.add(arrival)
    call.on("cancelled", () => arrival.abort(cancelReason(call)))
    const life = callSignal(arrival.signal)
    const answer = async () => {
      const message = readMessage(method, call.request, context)
      const request = streamRequest(method, message, arrived(method, call, life.signal, context))
      const response = (await life.race(served.call(request))) as StreamResponse
      const header = metadataOf(response.header)
      if (header !== undefined) call.sendMetadata(header)
      for await (const output of life.guard(response.message)) {
        if (!call.write(writeMessage(method, output))) await life.race(drained(call))
      }
      return metadataOf(response.trailer)
    }
    answer()
      .then(
        (trailer) => call.end(trailer),
        (error) => call.emit("error", statusOf(error)),
      )
      .finally(() => {
        life.abort()
        context.streams.delete(arrival)
      })
  }
}

type AnyServerCall = ServerUnaryCall<Buffer, Buffer> | ServerWritableStream<Buffer, Buffer>

function arrived(
  method: DescMethodUnary | DescMethodServerStreaming,
  call: AnyServerCall,
  signal: AbortSignal,
  context: CallContext,
): ArrivedCall {
  const contextValues = createContextValues()
  const deadline = Number(call.getDeadline())
  if (Number.isFinite(deadline)) contextValues.set(deadlineKey, deadline)
  const caller = context.callers.get(call.metadata)
  if (caller !== undefined) contextValues.set(callerKey, caller)
  return {
    url: `http://${call.getHost()}/${methodName(method)}`,
    signal,
    header: toHeaders(call.metadata),
    contextValues,
  }
}

function cancelReason(call: AnyServerCall): RunwardenError {
  const isLate = Date.now() >= Number(call.getDeadline())
  return new RunwardenError(isLate ? "DEADLINE_EXCEEDED" : "CANCELLED")
}

function readMessage(
  method: DescMethodUnary | DescMethodServerStreaming,
  bytes: Buffer,
  context: CallContext,
): Message {
  const limit = readLimitOf(methodName(method), context.readLimits)
  if (bytes.byteLength > limit) {
    throw new RunwardenError("REQUEST_TOO_LARGE", { limit_bytes: `${limit}` })
  }
  try {
    return fromBinary(method.input, bytes)
  } catch (cause) {
    throw malformed("it is no valid Protobuf message of this method", cause)
  }
}

function writeMessage(
  method: DescMethodUnary | DescMethodServerStreaming,
  message: Message,
): Buffer {
  const bytes = toBinary(method.output, message)
  if (bytes.byteLength <= writeMaxBytes) return asBuffer(bytes)
  throw new Error(`the answer of ${methodName(method)} is larger than ${writeMaxBytes} bytes`)
}

function metadataOf(headers: Headers): Metadata | undefined {
  return headers.keys().next().done ? undefined : toMetadata(headers)
}

/** The status of an error, INTERNAL where even that cannot be written: a call is always answered. */
function statusOf(error: unknown): ReturnType<typeof toStatus> {
  try {
    return toStatus(toConnectError(error))
  } catch (cause) {
    return toStatus(toConnectError(cause))
  }
}

function drained(call: ServerWritableStream<Buffer, Buffer>): Promise<void> {
  return new Promise((resolve) => call.once("drain", () => resolve()))
}

function malformed(reason: string, cause?: unknown): RunwardenError {
  return new RunwardenError("MALFORMED_REQUEST", { cause: reason }, { cause })
}

function errorStatus(error: RunwardenError) {
  return toStatus(toConnectError(error))
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function pass<T>(value: T): T {
  return value
}
