import type { Interceptor, Transport } from "@connectrpc/connect"
import { createConnectTransport } from "@connectrpc/connect-node"
import { defaultTimeoutMs } from "./deadline.ts"
import { writeMaxBytes } from "./server-limits.ts"

/** How to reach a gateway from outside the mesh. */
export interface GatewayTransportOptions {
  /** Base URL, such as `http://127.0.0.1:7100`. */
  readonly url: string
  /** Sent as a bearer token; without it only what needs no key can be called. */
  readonly apiKey?: string
  /** Deadline of a unary call that brings none; 10 s by default. Streams have none. */
  readonly timeoutMs?: number
  /** JSON instead of binary, for whoever reads the wire. */
  readonly useJson?: boolean
}

/**
 * Creates the transport for clients of a gateway: the Connect protocol over HTTP/2, which finds a
 * server that has gone by its pings and tries another connection for the next call.
 */
export function createGatewayTransport(options: GatewayTransportOptions): Transport {
  const transport = createConnectTransport({
    baseUrl: options.url,
    httpVersion: "2",
    useBinaryFormat: options.useJson !== true,
    readMaxBytes: writeMaxBytes,
    pingIntervalMs: 20_000,
    pingTimeoutMs: 10_000,
    acceptCompression: [],
    interceptors: [...(options.apiKey === undefined ? [] : [bearer(options.apiKey)])],
    defaultTimeoutMs: options.timeoutMs ?? defaultTimeoutMs,
  })
  return {
    unary: transport.unary.bind(transport),
    stream: (method, signal, timeoutMs, header, input, contextValues) =>
      transport.stream(method, signal, timeoutMs ?? 0, header, input, contextValues),
  }
}

function bearer(apiKey: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${apiKey}`)
    return next(request)
  }
}
