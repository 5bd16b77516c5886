/** One call over a gRPC channel: what grpc-js makes of it, as Connect's types have it. */
import {
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type Message,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf"
import {
  ConnectError,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect"
import {
  type CallOptions,
  type Client,
  type ClientReadableStream,
  Metadata,
  type ServiceError,
  type StatusObject,
  status,
} from "@grpc/grpc-js"
import { readAnswer } from "./answer-reader.ts"
import { deadlineKey, toWallClock } from "./deadline.ts"
import { fromStatus, hasDetails, toHeaders, toMetadata } from "./grpc-metadata.ts"
import { methodName, single } from "./method-chain.ts"
import { noteIfUnsent } from "./never-sent.ts"

/**
 * Sends a unary call that may be repeated. Once the first bytes of an answer are here, gRPC takes it
 * for given and repeats no more, although the connection may still break within it: then nothing of
 * the answer was told to anybody, and the call is sent once more.
 */
export async function sendRepeatable(
  channel: Client,
  request: UnaryRequest,
): Promise<UnaryResponse> {
  try {
    return await sendUnary(channel, request)
  } catch (error) {
    if (!cutAnswers.has(error as object) || request.signal.aborted) throw error
    return await sendUnary(channel, request)
  }
}

const cutAnswers = new WeakSet<object>()

/** Sends a unary call and waits for its answer and trailers. */
export function sendUnary(channel: Client, request: UnaryRequest): Promise<UnaryResponse> {
  const { method, signal } = request
  const { promise, resolve, reject } = Promise.withResolvers<UnaryResponse>()
  let header: Metadata | undefined
  let trailer: Metadata | undefined
  let message: Message | undefined
  let refused: ConnectError | undefined
  const read = (bytes: Buffer) => {
    try {
      return readAnswer(method.output, bytes)
    } catch (error) {
      // gRPC has its own word for whatever cannot be read.
      if (error instanceof ConnectError) refused = error
      throw error
    }
  }
  const call = channel.makeUnaryRequest<Message, Message>(
    `/${methodName(method)}`,
    writer(method.input),
    read,
    request.message,
    toMetadata(request.header),
    callOptions(request),
    (error: ServiceError | null, output?: Message) => {
      message = output
      if (error !== null) settle(() => reject(refused ?? failureOf(error, header)))
    },
  )
  const cancel = () => call.cancel()
  signal.addEventListener("abort", cancel)
  if (signal.aborted) cancel()
  call.on("metadata", (received) => {
    header = received
  })
  // The last event of a call, after its callback: only now are the trailers there.
  call.on("status", (received) => {
    trailer = received.metadata
    settle(() => {
      if (message === undefined) reject(failureOf(received, header))
      else resolve(unaryResponse(method, message, header, trailer))
    })
  })
  function settle(end: () => void) {
    signal.removeEventListener("abort", cancel)
    end()
  }
  return promise
}

function failureOf(received: StatusObject, header: Metadata | undefined): ConnectError {
  const error = fromStatus(
    isMiscounted(received) ? { ...received, code: status.INTERNAL } : received,
  )
  const isOurs = received.code === status.UNAVAILABLE && !hasDetails(received.metadata)
  if (isOurs && header !== undefined) cutAnswers.add(error)
  if (header === undefined) noteIfUnsent(error, received)
  return error
}

/**
 * grpc-js has a method as not implemented whose answer is no message, or two. It was called, and may
 * have done its work: no status that speaks of a call which never ran may say so.
 */
function isMiscounted({ code, details, metadata }: StatusObject): boolean {
  return (
    code === status.UNIMPLEMENTED &&
    !hasDetails(metadata) &&
    (details === "No message received" || details === "Too many responses received")
  )
}

function unaryResponse(
  method: DescMethodUnary,
  message: Message,
  header: Metadata | undefined,
  trailer: Metadata | undefined,
): UnaryResponse {
  return {
    stream: false,
    service: method.parent,
    method,
    message,
    get header() {
      return headersOf(header)
    },
    get trailer() {
      return headersOf(trailer)
    },
  }
}

/** Starts a server stream; its messages are read as they are asked for. */
export async function sendStream(channel: Client, request: StreamRequest): Promise<StreamResponse> {
  const { method, signal } = request
  const message = await single(request.message)
  const call = channel.makeServerStreamRequest<Message, Message>(
    `/${methodName(method)}`,
    writer(method.input),
    reader(method.output),
    message,
    toMetadata(request.header),
    callOptions(request),
  )
  const cancel = () => call.cancel()
  signal.addEventListener("abort", cancel)
  if (signal.aborted) cancel()
  call.on("close", () => signal.removeEventListener("abort", cancel))
  let header: Metadata | undefined
  const trailer = new Headers()
  call.on("metadata", (received) => {
    header = received
  })
  call.on("status", ({ metadata }) => {
    toHeaders(metadata).forEach((value, key) => {
      trailer.set(key, value)
    })
  })
  return {
    stream: true,
    service: method.parent,
    method,
    message: readAll(call),
    get header() {
      return headersOf(header)
    },
    trailer,
  }
}

async function* readAll(call: ClientReadableStream<Message>): AsyncGenerator<Message> {
  try {
    yield* call
  } catch (error) {
    throw isStatus(error) ? fromStatus(error) : error
  } finally {
    call.cancel()
  }
}

function isStatus(error: unknown): error is StatusObject {
  return error instanceof Error && "code" in error && "metadata" in error && "details" in error
}

function callOptions(request: UnaryRequest | StreamRequest): CallOptions {
  const deadline = request.contextValues.get(deadlineKey)
  return deadline === undefined ? {} : { deadline: toWallClock(deadline) }
}

function headersOf(metadata: Metadata | undefined): Headers {
  return toHeaders(metadata ?? new Metadata())
}

function writer<D extends DescMessage>(schema: D) {
  return (message: MessageShape<D>) => {
    const bytes = toBinary(schema, message)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

function reader<D extends DescMessage>(schema: D) {
  return (bytes: Buffer) => fromBinary(schema, bytes)
}
