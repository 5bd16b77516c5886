/**
 * The local transport: a call from one service to another in the same process.
 *
 * Owns nothing but what it makes once per method. A stream passes the chains of interceptors, the
 * caller's and then the target's; a unary call passes the same guards as plain calls, because there
 * what carries them would cost more than they do. There are no bytes and no sockets.
 *
 * 1. Headers cross, and of the context values the deadline and the identity alone: what the caller
 *    keeps for itself is never seen by the target, which verifies who is calling as over sockets.
 * 2. Request and response messages are shared, not cloned: a clone would cost more than the rest of
 *    the call together. A handler must not change its request, and a caller must not change an
 *    answer that a handler may have kept; `freeze`, which tests switch on, makes either throw.
 * 3. Errors are copied, and what the target keeps for its log (cause, stack) stays behind.
 * 4. A caller that cancels, or that stops reading a stream, aborts the handler's signal and gets its
 *    own answer at once, whether the handler listens or not.
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import {
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type StreamRequest,
  type StreamResponse,
  type Transport,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect"
import { context, SpanKind } from "@opentelemetry/api"
import { CallLife } from "./call-life.ts"
import { callSignal } from "./call-signal.ts"
import { deadlineKey, defaultTimeoutMs, longestTimeoutMs, maxTimeoutMs } from "./deadline.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { hopTokenKey, subjectKey } from "./identity.ts"
import {
  clientInterceptors,
  forNobody,
  requireAccessRules,
  serverInterceptors,
} from "./interceptors.ts"
import {
  type AnyCall,
  type ArrivedCall,
  compose,
  type HeaderInit,
  handlerOf,
  methodName,
  type ServedMethod,
  serveMethods,
  single,
  streamRequest,
  valuesOfCall,
} from "./method-chain.ts"
import { serveUnary } from "./served-unary.ts"
import type { Route, Runtime } from "./service.ts"
import { inCallSpan, labelsOf } from "./trace-interceptors.ts"

/** What a local transport calls. */
export interface LocalTarget {
  readonly routes: readonly Route[]
  readonly runtime: Runtime
}

/** Options of a local transport. */
export interface LocalTransportOptions {
  /** Freezes every message that crosses, deeply, so that a change of a shared one throws. */
  readonly freeze?: boolean
}

/**
 * Creates the transport by which `caller` reaches `target` in the same process, through the same
 * interceptors as over a socket. An RPC that the target does not serve fails with METHOD_NOT_FOUND.
 */
export function createLocalTransport(
  target: LocalTarget,
  caller: Runtime,
  options: LocalTransportOptions = {},
): Transport {
  requireAccessRules(target.routes.map((route) => route.service))
  const served = serveMethods(target.routes, serverInterceptors(target.runtime, "process"), "local")
  const interceptors = clientInterceptors(caller, target.runtime.name, "process")
  const share = options.freeze === true ? deepFreeze : undefined
  const streams = new Map<DescMethod, AnyCall>()
  const unaries = new Map<DescMethod, LocalUnary>()

  function streamOf(method: DescMethod): AnyCall {
    let call = streams.get(method)
    if (call === undefined) {
      call = compose(interceptors, crossing(method, served.get(methodName(method)), share))
      streams.set(method, call)
    }
    return call
  }

  function unaryOf(method: DescMethodUnary): LocalUnary {
    let call = unaries.get(method)
    if (call === undefined) {
      call = localUnary(method, target, caller, share)
      unaries.set(method, call)
    }
    return call
  }

  return {
    unary<I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderInit,
      input: MessageInitShape<I>,
      contextValues?: ContextValues,
    ): Promise<UnaryResponse<I, O>> {
      const call = unaryOf(method)({ signal, timeoutMs, header, input, contextValues })
      return call as Promise<UnaryResponse<I, O>>
    },

    async stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderInit,
      input: AsyncIterable<MessageInitShape<I>>,
      contextValues?: ContextValues,
    ): Promise<StreamResponse<I, O>> {
      const life = callSignal(signal, timeoutMs)
      try {
        const message = create(method.input, await single(input))
        const leaving = leavingCall(method, life.signal, timeoutMs, header, contextValues)
        const request = streamRequest(method as DescMethodServerStreaming, message, leaving)
        const response = (await life.race(streamOf(method)(request))) as StreamResponse<I, O>
        return { ...response, message: life.guard(response.message, copyError) }
      } catch (error) {
        life.abort()
        throw copyError(error)
      }
    },
  }
}

interface LeavingUnary {
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number | undefined
  readonly header: HeaderInit
  readonly input: MessageInitShape<DescMessage>
  readonly contextValues: ContextValues | undefined
}

type LocalUnary = (call: LeavingUnary) => Promise<UnaryResponse>

/** A unary method from the caller's side to its handler. */
function localUnary(
  method: DescMethodUnary,
  { routes, runtime }: LocalTarget,
  caller: Runtime,
  share: Share = (message) => message,
): LocalUnary {
  const found = routes.find((route) => route.service.typeName === method.parent.typeName)
  if (found === undefined || found.service.method[method.localName] === undefined) {
    const error = new RunwardenError("METHOD_NOT_FOUND", { method: methodName(method) })
    return () => Promise.reject(copyError(error))
  }
  const serve = serveUnary(method, handlerOf(method, found.implementation), runtime, "local")
  const { name, attributes } = labelsOf(method)
  const start = {
    kind: SpanKind.CLIENT,
    attributes: { ...attributes, "server.address": runtime.name },
  }
  const url = `local:///${name}`

  return async ({ signal, timeoutMs = defaultTimeoutMs, header, input, contextValues }) => {
    const subject = contextValues?.get(subjectKey)
    const now = performance.now()
    const deadline = timeoutMs > 0 ? now + Math.min(timeoutMs, longestTimeoutMs) : undefined
    try {
      if (subject === undefined) throw forNobody(method)
      const message = share(create(method.input, input))
      const answer = await inCallSpan(caller.tracer, name, start, context.active(), () =>
        serve({
          message,
          deadline,
          header,
          url,
          life: new CallLife(
            signal,
            Math.min((deadline ?? now + defaultTimeoutMs) - now, maxTimeoutMs),
          ),
          parent: context.active(),
          authenticate: () => runtime.verifier.accept(caller.signer.pass(subject, runtime.name)),
        }),
      )
      return new LocalResponse(method, share(answer.message), answer.context)
    } catch (error) {
      throw copyError(error)
    }
  }
}

/** Headers of an answer are those of its handler, which made some if anybody asks for them. */
class LocalResponse implements UnaryResponse {
  readonly stream = false
  readonly service: DescService
  readonly method: DescMethodUnary
  readonly message: Message
  readonly #context: HandlerContext

  constructor(method: DescMethodUnary, message: Message, context: HandlerContext) {
    this.service = method.parent
    this.method = method
    this.message = message
    this.#context = context
  }

  get header(): Headers {
    return this.#context.responseHeader
  }

  get trailer(): Headers {
    return this.#context.responseTrailer
  }
}

/** What the caller's interceptors see: as over a socket, with the deadline among the values. */
function leavingCall(
  method: DescMethod,
  signal: AbortSignal,
  timeoutMs: number | undefined,
  header: HeaderInit,
  contextValues: ContextValues | undefined,
): ArrivedCall {
  let made: Headers | undefined
  return {
    url: `local:///${methodName(method)}`,
    signal,
    get header() {
      made ??= new Headers(header)
      return made
    },
    contextValues: valuesOfCall(method, timeoutMs, contextValues),
  }
}

/** The step from the caller's chain into the target's. */
function crossing(method: DescMethod, served: ServedMethod | undefined, share?: Share): AnyCall {
  if (served === undefined) {
    return () =>
      Promise.reject(new RunwardenError("METHOD_NOT_FOUND", { method: methodName(method) }))
  }
  return async (request) => {
    const contextValues = createContextValues()
    contextValues.set(deadlineKey, request.contextValues.get(deadlineKey))
    contextValues.set(hopTokenKey, request.contextValues.get(hopTokenKey))
    const arrived = {
      stream: request.stream,
      method: request.method,
      service: request.service,
      requestMethod: request.requestMethod,
      url: request.url,
      signal: request.signal,
      get header() {
        return request.header
      },
      contextValues,
      message: request.message,
    } as UnaryRequest | StreamRequest
    if (share === undefined) return served.call(arrived)
    return shareResponse(await served.call(shareRequest(arrived, share)), share)
  }
}

type Share = <T>(message: T) => T

function shareRequest(request: UnaryRequest | StreamRequest, share: Share) {
  if (request.stream) return { ...request, message: mapMessages(request.message, share) }
  return { ...request, message: share(request.message) }
}

function shareResponse(response: UnaryResponse | StreamResponse, share: Share) {
  if (response.stream) return { ...response, message: mapMessages(response.message, share) }
  return { ...response, message: share(response.message) }
}

async function* mapMessages<T>(messages: AsyncIterable<T>, map: (message: T) => T) {
  for await (const message of messages) yield map(message)
}

/** Freezes a message and all below it. Bytes stay as they are: a filled array cannot be frozen. */
function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value
  if (Object.isFrozen(value)) return value
  Object.freeze(value)
  for (const member of Object.values(value)) deepFreeze(member)
  return value
}

/** The error as the caller may have it: nothing of it is shared with the target or its log. */
function copyError(error: unknown): ConnectError {
  const { rawMessage, code, metadata, details } = toConnectError(error)
  const copy = new ConnectError(rawMessage, code, metadata)
  copy.details = details
  return copy
}
