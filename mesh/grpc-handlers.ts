/**
 * The RPCs of a gRPC server as grpc-js calls them: bytes in, the served method's chain, bytes out.
 * A call is always answered, once, whatever of it fails.
 */
import {
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type Message,
  toBinary,
} from "@bufbuild/protobuf"
import { createContextValues, type StreamResponse, type UnaryResponse } from "@connectrpc/connect"
import type {
  Metadata,
  Server,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  sendUnaryData,
  UntypedServiceImplementation,
} from "@grpc/grpc-js"
import { callSignal } from "./call-signal.ts"
import { deadlineKey, fromWallClock } from "./deadline.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { toHeaders, toMetadata, toStatus } from "./grpc-metadata.ts"
import { type Caller, callerKey } from "./identity.ts"
import {
  type ArrivedCall,
  methodName,
  type ServedMethod,
  streamRequest,
  unaryRequest,
} from "./method-chain.ts"
import { type MethodLimits, readLimitOf, writeMaxBytes } from "./server-limits.ts"

/** What the calls of one server share. */
export interface CallContext {
  /** The caller that was verified on the headers. */
  readonly callers: WeakMap<Metadata, Caller>
  /** Streams under way; aborting one ends it with the reason. */
  readonly streams: Set<AbortController>
  /** Methods that take more than `readMaxBytes`. */
  readonly readLimits: MethodLimits
}

/** Adds an RPC to the server. */
export function register(server: Server, served: ServedMethod, context: CallContext): void {
  const { method } = served
  const handler =
    method.methodKind === "unary"
      ? unaryHandler(method, served, context)
      : streamHandler(method, served, context)
  const handlers = { [method.name]: handler } as UntypedServiceImplementation
  server.addService(definitionOf(method), handlers)
}

/** An RPC as grpc-js knows it: bytes in, bytes out. */
export function definitionOf(
  method: DescMethodUnary | DescMethodServerStreaming,
): ServiceDefinition {
  return {
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
}

function unaryHandler(method: DescMethodUnary, served: ServedMethod, context: CallContext) {
  return (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
    const life = new AbortController()
    const deadline = fromWallClock(call.getDeadline())
    let isAnswered = false
    // Also emitted when the answer is out, when it means nothing.
    call.on("cancelled", () => {
      if (!isAnswered) life.abort(cancelReason(deadline))
    })
    const answer = async () => {
      const message = readMessage(method, call.request, context)
      const from = arrived(method, call, deadline, life.signal, context)
      const request = unaryRequest(method, message, from)
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
    const deadline = fromWallClock(call.getDeadline())
    context.streams.add(arrival)
    call.on("cancelled", () => arrival.abort(cancelReason(deadline)))
    const life = callSignal(arrival.signal)
    const answer = async () => {
      const message = readMessage(method, call.request, context)
      const from = arrived(method, call, deadline, life.signal, context)
      const request = streamRequest(method, message, from)
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
  deadline: number,
  signal: AbortSignal,
  context: CallContext,
): ArrivedCall {
  const contextValues = createContextValues()
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

/** Why a call ended before it was answered that had until then, by the monotonic clock. */
export function cancelReason(deadline: number): RunwardenError {
  const isLate = performance.now() >= deadline
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
export function statusOf(error: unknown): ReturnType<typeof toStatus> {
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

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function pass<T>(value: T): T {
  return value
}
