/**
 * REST beside the RPC protocols: the same methods, behind the same chain, by their annotations.
 *
 * 1. Nothing of a body is read before its sender is authenticated, and never more than the method's
 *    limit of it.
 * 2. Every answer is typed, the one for an unknown path among them; an internal method is one.
 */
import type { Message } from "@bufbuild/protobuf"
import { ConnectError, createContextValues } from "@connectrpc/connect"
import { callSignal } from "../../mesh/call-signal.ts"
import { deadlineKey } from "../../mesh/deadline.ts"
import { inputInterceptor } from "../../mesh/edge-input.ts"
import { type EdgeRequest, type EdgeResponse, sendError } from "../../mesh/edge-responses.ts"
import { RunwardenError, toConnectError } from "../../mesh/errors.ts"
import { outerInterceptors } from "../../mesh/interceptors.ts"
import {
  type ArrivedCall,
  methodName,
  type ServedMethod,
  serveMethods,
  streamRequest,
  unaryRequest,
} from "../../mesh/method-chain.ts"
import { type MethodLimits, readLimitOf } from "../../mesh/server-limits.ts"
import type { Route, Runtime } from "../../mesh/service.ts"
import type { Authenticator } from "./authenticator.ts"
import { principalKey } from "./forwarding.ts"
import { closedSignal, headersOf, readBody, timeoutOf } from "./rest-http.ts"
import { readQuery, readRequest } from "./rest-request.ts"
import { messageJson, writeError, writeJson, writeStream, writeText } from "./rest-response.ts"
import { matchRoute, type RestRoute, restRoutes } from "./rest-route.ts"

export interface RestDeps {
  readonly runtime: Runtime
  readonly routes: readonly Route[]
  readonly authenticator: Authenticator
  readonly limits: MethodLimits
  /** Names of what cannot be reached now. */
  readonly findAway: () => Promise<readonly string[]>
  /** Ends the streams; other calls finish. */
  readonly draining: AbortSignal
}

const welcome = `Runwarden gateway.

REST under /v1, and Connect, gRPC and gRPC-Web at /<package>.<Service>/<Method>.
Send an API key as "Authorization: Bearer <key>". GET /healthz needs none.
`

/** Answers every request that is no RPC of Connect, gRPC or gRPC-Web. */
export function createRest(deps: RestDeps): (request: EdgeRequest, response: EdgeResponse) => void {
  const served = serveMethods(
    deps.routes,
    [...outerInterceptors(deps.runtime), inputInterceptor()],
    "rest",
  )
  const paths = restRoutes(deps.routes.map((route) => route.service))

  async function answer(request: EdgeRequest, response: EdgeResponse): Promise<void> {
    const [path = "", query = ""] = splitOnce(request.url ?? "")
    const httpMethod = request.method ?? ""
    if (path === "/healthz" && readsOnly(httpMethod)) return answerHealth(response)
    if (path === "/" && readsOnly(httpMethod)) return writeText(response, 200, welcome)
    const match = matchRoute(paths, httpMethod, path)
    if (match.kind === "found") {
      return answerRoute(request, response, match.route, match.variables, query)
    }
    const method = `${httpMethod} ${path}`.slice(0, 200)
    const error = toConnectError(new RunwardenError("METHOD_NOT_FOUND", { method }))
    if (match.kind === "none") return writeError(request, response, error)
    response.setHeader("allow", match.allowed.join(", "))
    sendError(request, response, error, 405)
  }

  async function answerHealth(response: EdgeResponse): Promise<void> {
    const away = await deps.findAway()
    if (away.length === 0) writeJson(response, 200, { status: "ok" })
    else writeJson(response, 503, { status: "unavailable", away: [...away] })
  }

  async function answerRoute(
    request: EdgeRequest,
    response: EdgeResponse,
    route: RestRoute,
    variables: ReadonlyMap<string, string>,
    query: string,
  ): Promise<void> {
    const name = methodName(route.method)
    const target = served.get(name)
    if (target === undefined) throw new Error(`${name} is not served`)
    const header = headersOf(request)
    const contextValues = createContextValues()
    contextValues.set(principalKey, await deps.authenticator.authenticate(header))
    const timeoutMs = timeoutOf(header)
    if (timeoutMs !== undefined) contextValues.set(deadlineKey, performance.now() + timeoutMs)
    const body = await readBody(request, readLimitOf(name, deps.limits))
    const message = readRequest(route, { variables, query: readQuery(query), body })
    const signal = closedSignal(response)
    const arrived = { signal, header, contextValues, url: `rest:///${name}` }
    await answerCall(request, response, target, message, arrived)
  }

  async function answerCall(
    request: EdgeRequest,
    response: EdgeResponse,
    { method, call }: ServedMethod,
    message: Message,
    arrived: ArrivedCall,
  ): Promise<void> {
    if (method.methodKind === "unary") {
      const answer = await call(unaryRequest(method, message, arrived))
      writeJson(response, 200, messageJson(method.output, answer.message as Message))
      return
    }
    const answer = await call(streamRequest(method, message, arrived))
    const messages = callSignal(deps.draining).guard(answer.message as AsyncIterable<Message>)
    const format = arrived.header.get("accept")?.includes("text/event-stream") ? "sse" : "ndjson"
    await writeStream(request, response, format, method.output, messages, toConnectError)
  }

  return (request, response) => {
    answer(request, response).catch((error: unknown) => {
      const mapped = toConnectError(error)
      // What the chain has thrown it has logged.
      if (!(error instanceof ConnectError) && !(error instanceof RunwardenError)) {
        deps.runtime.log.error({ err: error }, "REST request failed")
      }
      writeError(request, response, mapped)
    })
  }
}

function readsOnly(httpMethod: string): boolean {
  return httpMethod === "GET" || httpMethod === "HEAD"
}

function splitOnce(url: string): readonly [string, string] {
  const mark = url.indexOf("?")
  return mark < 0 ? [url, ""] : [url.slice(0, mark), url.slice(mark + 1)]
}
