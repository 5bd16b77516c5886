import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type Transport,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect"
import { unaryOf } from "./batch-methods.ts"
import { deadlineKey, defaultTimeoutMs, longestTimeoutMs } from "./deadline.ts"
import { hopTokenKey } from "./identity.ts"
import type { Route } from "./service.ts"

/** Headers as a client may give them. */
export type HeaderInit = Parameters<Transport["unary"]>[3]

/** A call as interceptors see it, on either side of a transport. */
export type AnyCall = ReturnType<Interceptor>

/** An RPC that is served, behind all its interceptors. */
export interface ServedMethod {
  readonly method: DescMethodUnary | DescMethodServerStreaming
  /** The whole chain; takes the request as a server transport made it. */
  readonly call: AnyCall
}

/** What a server transport knows of a call when it arrives. */
export interface ArrivedCall {
  readonly signal: AbortSignal
  /** May be made when it is first asked for: `Headers` cost more than the rest of a local call. */
  readonly header: Headers
  readonly contextValues: ContextValues
  readonly url: string
}

/**
 * Binds every RPC of the routes to its handler and composes the interceptors around it, once, so
 * that a call costs no composition. The first interceptor is the outermost. Keys are
 * `package.Service/Method`. Methods that take a stream are refused: no service of the mesh has one.
 * `BatchX` is left out: it has no handler, and is served over sockets from the one of `X`.
 */
export function serveMethods(
  routes: readonly Route[],
  interceptors: readonly Interceptor[],
  protocolName: string,
): ReadonlyMap<string, ServedMethod> {
  const served = new Map<string, ServedMethod>()
  for (const { service, implementation } of routes) {
    for (const method of service.methods) {
      if (unaryOf(method) !== undefined) continue
      const handler = handlerOf(method, implementation)
      served.set(methodName(method), bind(method, handler, interceptors, protocolName))
    }
  }
  return served
}

/** The handler of a method, bound to its implementation. */
export function handlerOf(method: DescMethod, implementation: Route["implementation"]): Handler {
  const handler = implementation[method.localName] as Handler | undefined
  if (handler === undefined) throw new Error(`${methodName(method)} has no handler`)
  return handler.bind(implementation)
}

/** The name of an RPC on the wire, without the leading slash. */
export function methodName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`
}

/** Wraps a call into interceptors; the first is the outermost. */
export function compose(interceptors: readonly Interceptor[], innermost: AnyCall): AnyCall {
  return interceptors.reduceRight((next, interceptor) => interceptor(next), innermost)
}

/** The unary request that a server transport puts into the chain. */
export function unaryRequest(
  method: DescMethodUnary,
  message: Message,
  call: ArrivedCall,
): UnaryRequest {
  return {
    stream: false,
    method,
    service: method.parent,
    requestMethod: "POST",
    url: call.url,
    signal: call.signal,
    get header() {
      return call.header
    },
    contextValues: call.contextValues,
    message,
  }
}

/** The streaming request that a server transport puts into the chain. */
export function streamRequest(
  method: DescMethodServerStreaming,
  message: Message,
  call: ArrivedCall,
): StreamRequest {
  return {
    stream: true,
    method,
    service: method.parent,
    requestMethod: "POST",
    url: call.url,
    signal: call.signal,
    get header() {
      return call.header
    },
    contextValues: call.contextValues,
    message: once(message),
  }
}

/**
 * The context values of an outgoing call: the caller's, with this call's deadline and token in front
 * of them. A unary call without a timeout gets the default; 0 and a stream without one have none.
 * The caller's own object stays as it is, for it may serve many calls.
 */
export function valuesOfCall(
  method: DescMethod,
  timeoutMs: number | undefined,
  base: ContextValues = createContextValues(),
): ContextValues {
  const timeout = timeoutMs ?? (method.methodKind === "unary" ? defaultTimeoutMs : 0)
  const own = createContextValues()
  if (timeout > 0) own.set(deadlineKey, performance.now() + Math.min(timeout, longestTimeoutMs))
  const holder = (key: { readonly id: symbol }) =>
    key.id === deadlineKey.id || key.id === hopTokenKey.id ? own : base
  return {
    get: (key) => holder(key).get(key),
    set(key, value) {
      holder(key).set(key, value)
      return this
    },
    delete(key) {
      holder(key).delete(key)
      return this
    },
  }
}

/** An iterable of one message, without the cost of a generator. */
export function once<T>(message: T): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]() {
      let isGiven = false
      return {
        next() {
          if (isGiven) return Promise.resolve({ done: true, value: undefined })
          isGiven = true
          return Promise.resolve({ done: false, value: message })
        },
      }
    },
  }
}

/** The only message of a request that its interceptors may have wrapped. */
export async function single<T>(messages: AsyncIterable<T>): Promise<T> {
  const iterator = messages[Symbol.asyncIterator]()
  const first = await iterator.next()
  if (first.done === true || (await iterator.next()).done !== true) {
    throw new ConnectError("exactly one request message is needed", Code.InvalidArgument)
  }
  return first.value
}

/** A handler, bound to its implementation. */
export type Handler = (request: Message, context: HandlerContext) => unknown

function bind(
  method: DescMethod,
  handler: Handler,
  interceptors: readonly Interceptor[],
  protocolName: string,
): ServedMethod {
  switch (method.methodKind) {
    case "unary": {
      const unary = method as DescMethodUnary
      return { method: unary, call: compose(interceptors, unaryCall(unary, handler, protocolName)) }
    }
    case "server_streaming": {
      const stream = method as DescMethodServerStreaming
      return {
        method: stream,
        call: compose(interceptors, streamCall(stream, handler, protocolName)),
      }
    }
    default:
      throw new Error(`${methodName(method)} takes a stream, which no transport of the mesh serves`)
  }
}

function unaryCall(method: DescMethodUnary, handler: Handler, protocolName: string): AnyCall {
  return async (request) => {
    const context = handlerContext(request, protocolName)
    const output = (await handler(
      request.message as Message,
      context,
    )) as MessageInitShape<DescMessage>
    return {
      stream: false,
      service: method.parent,
      method,
      message: create(method.output, output),
      get header() {
        return context.responseHeader
      },
      get trailer() {
        return context.responseTrailer
      },
    } satisfies UnaryResponse
  }
}

function streamCall(
  method: DescMethodServerStreaming,
  handler: Handler,
  protocolName: string,
): AnyCall {
  return async (request) => {
    const context = handlerContext(request, protocolName)
    const message = await single(request.message as AsyncIterable<Message>)
    const output = handler(message, context) as AsyncIterable<MessageInitShape<DescMessage>>
    return {
      stream: true,
      service: method.parent,
      method,
      message: normalized(method.output, output),
      get header() {
        return context.responseHeader
      },
      get trailer() {
        return context.responseTrailer
      },
    } satisfies StreamResponse
  }
}

/**
 * The context of a handler. Response headers are made when somebody asks for them: almost no
 * handler does, and two `Headers` would be a third of a local call's cost.
 */
function handlerContext(
  request: UnaryRequest | StreamRequest,
  protocolName: string,
): HandlerContext {
  let responseHeader: Headers | undefined
  let responseTrailer: Headers | undefined
  return {
    method: request.method,
    service: request.service,
    signal: request.signal,
    requestMethod: request.requestMethod,
    get requestHeader() {
      return request.header
    },
    protocolName,
    values: request.contextValues,
    url: request.url,
    timeoutMs() {
      const deadline = request.contextValues.get(deadlineKey)
      return deadline === undefined ? undefined : deadline - performance.now()
    },
    get responseHeader() {
      responseHeader ??= new Headers()
      return responseHeader
    },
    get responseTrailer() {
      responseTrailer ??= new Headers()
      return responseTrailer
    },
  }
}

async function* normalized(
  schema: DescMessage,
  output: AsyncIterable<MessageInitShape<DescMessage>>,
): AsyncGenerator<Message> {
  for await (const message of output) yield create(schema, message)
}
