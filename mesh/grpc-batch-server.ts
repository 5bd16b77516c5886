/**
 * `BatchX` over gRPC, served from the handler of `X`.
 *
 * 1. Each item is a call by itself: its caller is verified from its own identity, and access,
 *    workspace, validation, deadline, trace and outcome are its own. What is wrong with one fails it
 *    alone.
 * 2. An item's identity was signed by the service that sent the batch, and one that names a call
 *    serves one item.
 * 3. A result leaves as soon as it is there, with those that are there at the same moment.
 * 4. A cancelled batch aborts its items; a drain waits for them, as for every unary call.
 */
import {
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type Message,
  toBinary,
} from "@bufbuild/protobuf"
import type { Server, ServerWritableStream, UntypedServiceImplementation } from "@grpc/grpc-js"
import { propagation, ROOT_CONTEXT } from "@opentelemetry/api"
import { maxBatchItems } from "./batch-methods.ts"
import {
  type BatchItem,
  type BatchRequest,
  type BatchResult,
  decodeBatchRequest,
  encodeBatchResponse,
} from "./batch-wire.ts"
import { CallLife } from "./call-life.ts"
import { defaultTimeoutMs, fromWallClock, maxTimeoutMs } from "./deadline.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { type CallContext, cancelReason, definitionOf, statusOf } from "./grpc-handlers.ts"
import { statusBytes } from "./grpc-metadata.ts"
import type { Verifier } from "./hop-tokens.ts"
import type { Caller } from "./identity.ts"
import { requireAccess, toServedError } from "./interceptors.ts"
import { methodName } from "./method-chain.ts"
import type { UnaryAnswer, UnaryArrival } from "./served-unary.ts"
import { readLimitOf, writeMaxBytes } from "./server-limits.ts"
import type { Runtime } from "./service.ts"

/** A method that is served in batches too. */
export interface BatchedMethod {
  readonly batch: DescMethodServerStreaming
  readonly method: DescMethodUnary
  readonly serve: (arrival: UnaryArrival) => Promise<UnaryAnswer>
}

/** Results that leave together weigh about this much at most, unless one alone weighs more. */
const responseBytes = 1024 * 1024

/** Adds `BatchX` to the server. */
export function registerBatch(
  server: Server,
  batched: BatchedMethod,
  runtime: Runtime,
  context: CallContext,
): void {
  const { batch } = batched
  const handler = (call: ServerWritableStream<Buffer, Buffer>) => {
    answer(call, batched, runtime, context).catch((error: unknown) => {
      call.emit("error", statusOf(toServedError(error, runtime, batch)))
    })
  }
  const handlers = { [batch.name]: handler } as UntypedServiceImplementation
  server.addService(definitionOf(batch), handlers)
}

async function answer(
  call: ServerWritableStream<Buffer, Buffer>,
  batched: BatchedMethod,
  runtime: Runtime,
  { callers, readLimits }: CallContext,
): Promise<void> {
  const sender = callers.get(call.metadata)
  if (sender === undefined) throw new RunwardenError("UNAUTHENTICATED")
  requireAccess(batched.batch, sender)
  const request = readBatch(call.request)
  const arrival = new AbortController()
  const deadline = fromWallClock(call.getDeadline())
  const results = createResults(call, request.items.length)
  // Also emitted when the answer is out, when it means nothing.
  call.on("cancelled", () => {
    if (results.left > 0) arrival.abort(cancelReason(deadline))
  })
  const authenticate = await authenticator(request.identities, sender, runtime.verifier)
  const url = `http://${call.getHost()}/${methodName(batched.method)}`
  const limit = readLimitOf(methodName(batched.method), readLimits)
  const { method, serve } = batched
  request.items.forEach((item, index) => {
    const answerItem = async () => {
      const { message } = await serve({
        message: readItem(method, item, limit),
        life: new CallLife(
          arrival.signal,
          Math.min(item.timeoutMs === 0 ? defaultTimeoutMs : item.timeoutMs, maxTimeoutMs),
        ),
        deadline: item.timeoutMs === 0 ? undefined : performance.now() + item.timeoutMs,
        parent: propagation.extract(ROOT_CONTEXT, { traceparent: item.traceParent }),
        header: undefined,
        url,
        authenticate: () => authenticate(item.identity),
      })
      return writeItem(method, message)
    }
    answerItem().then(
      (response) => results.add({ item: index, response }),
      (error) => results.add({ item: index, error: statusBytes(toConnectError(error)) }),
    )
  })
}

function readBatch(bytes: Uint8Array): BatchRequest {
  let request: BatchRequest
  try {
    request = decodeBatchRequest(bytes)
  } catch (cause) {
    throw malformed("it is no valid Protobuf message of this method", cause)
  }
  const { items, identities } = request
  if (items.length === 0) throw malformed("a batch has at least one item")
  if (Math.max(items.length, identities.length) > maxBatchItems) {
    throw malformed(`a batch has at most ${maxBatchItems} items and as many identities`)
  }
  return request
}

/** Verifies each identity once, and says who the caller is that an item names. */
async function authenticator(
  identities: readonly string[],
  sender: Caller,
  verifier: Verifier,
): Promise<(identity: number) => Caller> {
  const found = await Promise.all(
    identities.map((identity) => verifier.verifyAll(identity).catch(() => [undefined])),
  )
  const callers = found.flat()
  return (identity) => {
    const caller = callers[identity]
    if (caller === undefined || caller.issuer !== sender.issuer) {
      throw new RunwardenError("UNAUTHENTICATED")
    }
    if (caller.call !== undefined) callers[identity] = undefined
    return caller
  }
}

function readItem(method: DescMethodUnary, { request }: BatchItem, limit: number): Message {
  if (request.byteLength > limit) {
    throw new RunwardenError("REQUEST_TOO_LARGE", { limit_bytes: `${limit}` })
  }
  try {
    return fromBinary(method.input, request)
  } catch (cause) {
    throw malformed("it is no valid Protobuf message of this method", cause)
  }
}

function writeItem(method: DescMethodUnary, message: Message): Uint8Array {
  const bytes = toBinary(method.output, message)
  if (bytes.byteLength <= writeMaxBytes) return bytes
  throw new Error(`the answer of ${methodName(method)} is larger than ${writeMaxBytes} bytes`)
}

/** Gathers the results of one turn of the event loop, and ends the call after the last one. */
function createResults(call: ServerWritableStream<Buffer, Buffer>, expected: number) {
  let ready: BatchResult[] = []
  let left = expected

  function flush(): void {
    const results = ready
    ready = []
    if (call.cancelled) return
    for (const part of parts(results)) call.write(encodeBatchResponse(part))
    if (left === 0) call.end()
  }

  return {
    get left() {
      return left
    },
    add(result: BatchResult): void {
      left--
      if (ready.push(result) === 1) setImmediate(flush)
    },
  }
}

function parts(results: readonly BatchResult[]): readonly (readonly BatchResult[])[] {
  const found: BatchResult[][] = []
  let room = 0
  for (const result of results) {
    const size = (result.response ?? result.error)?.byteLength ?? 0
    if (found.length === 0 || size > room) {
      found.push([])
      room = responseBytes
    }
    found.at(-1)?.push(result)
    room -= size
  }
  return found
}

function malformed(reason: string, cause?: unknown): RunwardenError {
  return new RunwardenError("MALFORMED_REQUEST", { cause: reason }, { cause })
}
