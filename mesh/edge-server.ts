/**
 * The server at the edge: Connect, gRPC, gRPC-Web and whatever the fallback serves, JSON and binary,
 * over HTTP/1.1 and HTTP/2, on one port.
 *
 * Owns the port, its connections and the RPC handlers of Connect's router.
 * States: created, serving (after `start`), draining (disposal), closed.
 *
 * 1. A request reaches the router only when its path names an RPC, its method is POST and its
 *    authority makes a URL. The router throws on some authorities before any handler: that ends a
 *    process that does not guard it.
 * 2. `requestGate` runs on the headers, before a byte of the body is read.
 * 3. A body is complete within `requestTimeoutMs` and its size within the method's limit.
 * 4. Whatever leaves as an error says its reason, in the way of its protocol.
 * 5. A stream of HTTP/2 ends with its answer, also where its body never ends; an answer that nobody
 *    takes ends after `stallTimeoutMs`. So a client holds no place without doing its part.
 * 6. Headers that begin with `runwarden-` are the mesh's own: outside requests lose them.
 */
import type { DescMethod } from "@bufbuild/protobuf"
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createConnectRouter,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect"
import {
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node"
import { callSignal } from "./call-signal.ts"
import { deadlineKey } from "./deadline.ts"
import { inputInterceptor, jsonTextDecoder } from "./edge-input.ts"
import { createEdgeListener, type ListenerLimits } from "./edge-listener.ts"
import { endStalled, releaseUnread } from "./edge-places.ts"
import {
  type EdgeRequest,
  type EdgeResponse,
  sendError,
  withTypedErrors,
} from "./edge-responses.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { methodName } from "./method-chain.ts"
import { edgeLimits, type MethodLimits, readLimitOf, writeMaxBytes } from "./server-limits.ts"
import type { Runtime } from "./service.ts"

export interface EdgeServerOptions {
  /** Registers the RPCs, as with Connect's own adapter. */
  readonly routes: (router: ConnectRouter) => void
  /** Outermost first; must begin with `outerInterceptors`, which map errors and keep deadlines. */
  readonly interceptors: readonly Interceptor[]
  /** Authenticates on the headers; throws to refuse. May set context values for interceptors. */
  readonly requestGate?: (context: HandlerContext) => void | Promise<void>
  /** Serves the paths that are no RPC; without it they are METHOD_NOT_FOUND. */
  readonly fallback?: (request: EdgeRequest, response: EdgeResponse) => void | Promise<void>
  /** `host:port`; port 0 takes a free one. */
  readonly listen: string
  readonly runtime: Runtime
  /** Methods that take more than `readMaxBytes`. */
  readonly readLimits?: MethodLimits
  /** Replaces single limits of `edgeLimits`. */
  readonly limits?: Partial<ListenerLimits>
}

export interface EdgeServer extends AsyncDisposable {
  /** Binds the port and says which it is. */
  start(): Promise<{ readonly port: number }>
}

/** Creates the edge. Nothing listens before `start`. */
export function createEdgeServer(options: EdgeServerOptions): EdgeServer {
  const limits: ListenerLimits = { ...edgeLimits, ...options.limits }
  const draining = new AbortController()
  const forced = new AbortController()
  const handlers = rpcHandlers(options, limits, draining.signal, forced.signal)
  const listener = createEdgeListener((request, response) => {
    request.on("error", () => undefined)
    response.on("error", () => undefined)
    releaseUnread(request)
    endStalled(response, limits.stallTimeoutMs)
    if (draining.signal.aborted && request.httpVersionMajor < 2) {
      response.setHeader("connection", "close")
    }
    serve(request, response).catch((error: unknown) => {
      const mapped = toConnectError(error)
      if (mapped.code === Code.Internal) {
        options.runtime.log.error({ err: error }, "request failed at the edge")
      }
      if (response.headersSent) response.destroy()
      else if (mapped.code === Code.Unimplemented) sendError(request, response, mapped, 404)
      else sendError(request, response, mapped)
    })
  }, limits)

  async function serve(request: EdgeRequest, response: EdgeResponse): Promise<void> {
    const path = requirePath(request)
    requireAuthority(request)
    removeMeshHeaders(request)
    const handler = handlers.get(path)
    if (handler !== undefined) return serveRpc(handler, request, response, limits)
    if (options.fallback === undefined) throw notServed(path.slice(1))
    await options.fallback(request, response)
  }

  return {
    async start() {
      const { host, port } = splitAddress(options.listen)
      return { port: await listener.listen(host, port) }
    },
    async [Symbol.asyncDispose]() {
      const stopping = new RunwardenError("SHUTTING_DOWN", { service: options.runtime.name })
      // Streams would hold the drain up to its end; whoever reads one resumes at another replica.
      draining.abort(stopping)
      await listener.drain(limits.drainMs, () => forced.abort(toConnectError(stopping)))
    },
  }
}

interface RpcHandler {
  readonly method: DescMethod
  readonly limitBytes: number
  readonly handle: ConnectRouter["handlers"][number]
}

function rpcHandlers(
  options: EdgeServerOptions,
  limits: ListenerLimits,
  draining: AbortSignal,
  shutdownSignal: AbortSignal,
): ReadonlyMap<string, RpcHandler> {
  const limitOf = (method: DescMethod) => readLimitOf(methodName(method), options.readLimits)
  // `textDecoder` is read by Connect's JSON parser; its type does not say so.
  const jsonOptions = { ignoreUnknownFields: false, textDecoder: jsonTextDecoder }
  const router = createConnectRouter({
    interceptors: [inputInterceptor(limitOf), ...options.interceptors, drainInterceptor(draining)],
    requestGate: (context) => gate(context, options.requestGate),
    // No brotli: it inflates further than gzip, and nobody who calls an API asks for it.
    acceptCompression: [compressionGzip],
    compressMinBytes: limits.compressMinBytes,
    writeMaxBytes,
    // A longer one would overflow the timer and pass at once; the interceptor shortens the rest.
    maxTimeoutMs: 2 ** 31 - 1,
    shutdownSignal,
    jsonOptions,
    // Plain curl with JSON is a first-class client. What the header would keep out is a browser's
    // simple request, which cannot carry an API key, and JSON is not a simple content type.
    requireConnectProtocolHeader: false,
  })
  options.routes(limitedRouter(router, limitOf))
  return new Map(
    router.handlers.map((handle) => {
      const { method, requestPath } = handle
      return [requestPath, { method, limitBytes: limitOf(method), handle }]
    }),
  )
}

/** Registers each method by itself, for Connect takes limits only per registration. */
function limitedRouter(
  router: ConnectRouter,
  limitOf: (method: DescMethod) => number,
): ConnectRouter {
  const limited: ConnectRouter = {
    handlers: router.handlers,
    rpc(method, implementation, options) {
      router.rpc(method, implementation, { ...options, readMaxBytes: limitOf(method) })
      return limited
    },
    service(service, implementation, options) {
      const handlers = implementation as Record<string, ((...args: never[]) => unknown) | undefined>
      for (const method of service.methods) {
        const handler = handlers[method.localName]
        if (handler !== undefined)
          limited.rpc(method, handler.bind(implementation) as never, options)
      }
      return limited
    },
  }
  return limited
}

async function gate(
  context: HandlerContext,
  authenticate: EdgeServerOptions["requestGate"],
): Promise<void> {
  const remaining = context.timeoutMs()
  if (remaining !== undefined) context.values.set(deadlineKey, performance.now() + remaining)
  try {
    await authenticate?.(context)
  } catch (error) {
    throw toConnectError(error)
  }
}

/** Ends streams when the server drains; unary calls finish. */
function drainInterceptor(draining: AbortSignal): Interceptor {
  return (next) => async (request) => {
    const response = await next(request)
    if (!response.stream) return response
    return { ...response, message: callSignal(draining).guard(response.message) }
  }
}

async function serveRpc(
  handler: RpcHandler,
  request: EdgeRequest,
  response: EdgeResponse,
  limits: ListenerLimits,
): Promise<void> {
  if (request.method !== "POST") {
    response.setHeader("allow", "POST")
    const error = malformed("its HTTP method is not POST")
    return sendError(request, response, toConnectError(error), 405)
  }
  const plain = request as Parameters<typeof universalRequestFromNodeRequest>[0]
  const plainResponse = response as Parameters<typeof universalResponseToNodeResponse>[1]
  const call = universalRequestFromNodeRequest(plain, plainResponse, undefined, undefined)
  // Leaving the request's own iterator early would destroy its stream, and the answer with it.
  const body = timely(request.iterator({ destroyOnReturn: false }), limits.requestTimeoutMs)
  const answer = await handler.handle({ ...call, body })
  const typed = await withTypedErrors(answer, {
    limitBytes: handler.limitBytes,
    method: handler.method,
  })
  if (request.httpVersionMajor < 2 && !request.complete) response.setHeader("connection", "close")
  try {
    await universalResponseToNodeResponse(typed, plainResponse)
  } catch (error) {
    // The client has gone: there is nobody to tell.
    if (ConnectError.from(error).code !== Code.Aborted && !response.destroyed) throw error
  }
}

/** Passes a body on, and fails when it is not complete in time. */
async function* timely(
  body: AsyncIterable<Uint8Array>,
  timeoutMs: number,
): AsyncGenerator<Uint8Array> {
  const life = callSignal(undefined, timeoutMs)
  try {
    yield* life.guard(body)
  } finally {
    life.release()
  }
}

const maxPathLength = 8 * 1024

function requirePath(request: EdgeRequest): string {
  const { url } = request
  if (url === undefined || !url.startsWith("/") || url.startsWith("//")) {
    throw malformed("its path does not begin with one slash")
  }
  if (url.length > maxPathLength) throw malformed("its path is too long")
  const end = url.indexOf("?")
  return end === -1 ? url : url.slice(0, end)
}

const authorityPattern = /^(?:[\w.~%!$&'()*+,;=-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?$/

function requireAuthority(request: EdgeRequest): void {
  const authority = "authority" in request ? request.authority : request.headers.host
  if (
    authority === undefined ||
    !authorityPattern.test(authority) ||
    !URL.canParse(`http://${authority}/`)
  ) {
    throw malformed("its host is missing or not valid")
  }
}

function removeMeshHeaders(request: EdgeRequest): void {
  for (const name of Object.keys(request.headers)) {
    if (name.startsWith("runwarden-")) delete request.headers[name]
  }
}

function splitAddress(listen: string): { readonly host: string; readonly port: number } {
  const colon = listen.lastIndexOf(":")
  return {
    host: listen.slice(0, colon).replace(/^\[|\]$/g, ""),
    port: Number(listen.slice(colon + 1)),
  }
}

function notServed(method: string): RunwardenError {
  return new RunwardenError("METHOD_NOT_FOUND", { method: method.slice(0, 200) })
}

function malformed(cause: string): RunwardenError {
  return new RunwardenError("MALFORMED_REQUEST", { cause })
}
