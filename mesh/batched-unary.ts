/**
 * The caller's side of a unary call that leaves with others. It passes the chain of the client
 * interceptors, in the same order, made of plain calls: trace, errors, identity.
 */
import { type DescMethodUnary, type DescService, type Message, toBinary } from "@bufbuild/protobuf"
import {
  type ContextValues,
  createContextValues,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect"
import { type Client, connectivityState } from "@grpc/grpc-js"
import { context, propagation, SpanKind } from "@opentelemetry/api"
import { readAnswer } from "./answer-reader.ts"
import { batchOf } from "./batch-methods.ts"
import { CallLife } from "./call-life.ts"
import { deadlineKey, defaultTimeoutMs, longestTimeoutMs } from "./deadline.ts"
import { toConnectError } from "./errors.ts"
import { createCoalescer, maxItemBytes } from "./grpc-batch-client.ts"
import { type Subject, subjectKey } from "./identity.ts"
import { toCallerError } from "./interceptors.ts"
import { unaryRequest } from "./method-chain.ts"
import type { Runtime } from "./service.ts"
import { inCallSpan, labelsOf } from "./trace-interceptors.ts"

/** How a call is made. */
export interface BatchedCall {
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number | undefined
  readonly contextValues: ContextValues | undefined
}

/** Makes a call, or gives undefined for one that must leave alone. */
export type BatchedUnary = (
  message: Message,
  call: BatchedCall,
) => Promise<UnaryResponse> | undefined

/** What calls of one method to one peer stand on. */
export interface BatchedUnaryDeps {
  readonly caller: Runtime
  readonly audience: string
  readonly url: string
  channel(): Client
  /** The same call by itself. */
  alone(request: UnaryRequest): Promise<UnaryResponse>
}

/** The calls of a method that has a batch; undefined for one that has none. */
export function createBatchedUnary(
  method: DescMethodUnary,
  { caller, audience, url, channel, alone }: BatchedUnaryDeps,
): BatchedUnary | undefined {
  const batch = batchOf(method)
  if (batch === undefined) return undefined
  const coalescer = createCoalescer({ batch, caller, audience, channel })
  const { name, attributes } = labelsOf(method)
  const start = { kind: SpanKind.CLIENT, attributes: { ...attributes, "server.address": audience } }

  async function send(
    message: Message,
    request: Uint8Array,
    subject: Subject,
    { signal, timeoutMs = defaultTimeoutMs }: BatchedCall,
  ): Promise<UnaryResponse> {
    const now = performance.now()
    const deadline = timeoutMs > 0 ? now + Math.min(timeoutMs, longestTimeoutMs) : undefined
    const life = new CallLife(signal, deadline === undefined ? longestTimeoutMs : deadline - now)
    const sendAlone = async () => {
      const values = createContextValues().set(subjectKey, subject).set(deadlineKey, deadline)
      const call = { url, signal: life.signal, header: new Headers(), contextValues: values }
      const response = await alone(unaryRequest(method, message, call))
      return toBinary(method.output, response.message as Message)
    }
    try {
      const answer = await inCallSpan(caller.tracer, name, start, context.active(), async () => {
        const traceParent = activeTraceParent()
        const item = coalescer.add({ subject, request, deadline, traceParent, alone: sendAlone })
        try {
          return await life.race(item.answer)
        } catch (error) {
          item.leave()
          throw toCallerError(error, audience)
        }
      })
      return new BatchedResponse(method, readAnswer(method.output, answer))
    } catch (error) {
      throw toConnectError(error)
    }
  }

  return (message, call) => {
    const subject = call.contextValues?.get(subjectKey)
    // A call that says not for whom fails where all calls do.
    if (subject === undefined || !coalescer.isOpen) return undefined
    if (channel().getChannel().getConnectivityState(true) !== connectivityState.READY) {
      return undefined
    }
    const request = toBinary(method.input, message)
    return request.byteLength > maxItemBytes ? undefined : send(message, request, subject, call)
  }
}

/** An answer that came with others brings no headers. */
class BatchedResponse implements UnaryResponse {
  readonly stream = false
  readonly service: DescService
  readonly method: DescMethodUnary
  readonly message: Message

  constructor(method: DescMethodUnary, message: Message) {
    this.service = method.parent
    this.method = method
    this.message = message
  }

  get header(): Headers {
    return new Headers()
  }

  get trailer(): Headers {
    return new Headers()
  }
}

function activeTraceParent(): string {
  const carrier: { traceparent?: string } = {}
  propagation.inject(context.active(), carrier)
  return carrier.traceparent ?? ""
}
