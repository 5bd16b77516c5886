import {
  createServer as createHttp1Server,
  type Server as Http1Server,
  type ServerResponse,
} from "node:http"
import {
  constants,
  createServer as createHttp2Server,
  type Http2Server,
  type ServerHttp2Session,
} from "node:http2"
import { createServer, type Server, type Socket } from "node:net"
import { type EdgeRequest, type EdgeResponse, rawError } from "./edge-responses.ts"
import type { edgeLimits } from "./server-limits.ts"

/** Limits of a listener; tests shorten them. */
export type ListenerLimits = {
  readonly [K in keyof typeof edgeLimits]: number
}

/** One port that speaks HTTP/1.1 and HTTP/2 in the clear. */
export interface EdgeListener {
  listen(host: string, port: number): Promise<number>
  /**
   * Stops accepting, tells every HTTP/2 session to go away, lets what is under way finish, and
   * destroys what is left after `drainMs`. `onForced` runs before that, to end the handlers.
   */
  drain(drainMs: number, onForced: () => void): Promise<void>
}

/**
 * Creates the listener. Which protocol a connection speaks is seen from its first bytes: all of
 * HTTP/2's preface, however slowly they come, or anything else for HTTP/1.1.
 */
export function createEdgeListener(
  handle: (request: EdgeRequest, response: EdgeResponse) => void,
  limits: ListenerLimits,
): EdgeListener {
  const sockets = new Set<Socket>()
  const sessions = new Set<ServerHttp2Session>()
  const h1 = http1Server(handle, limits)
  const h2 = http2Server(handle, limits, sessions)
  const probing = { keepAlive: true, keepAliveInitialDelay: limits.keepAliveProbeMs }
  const front = createServer({ noDelay: true, ...probing }, (socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => socket.destroy())
    sniff(socket, h1, h2, limits.prefaceTimeoutMs)
  })
  front.maxConnections = limits.maxConnections

  return {
    async listen(host, port) {
      const bound = await bind(front, host, port)
      // A server that never listens itself does not look after its timeouts until it hears this.
      h1.emit("listening")
      return bound
    },
    async drain(drainMs, onForced) {
      const closed = new Promise<void>((resolve) => front.close(() => resolve()))
      for (const session of sessions) sendGoaway(session)
      const idle = setInterval(() => h1.closeIdleConnections(), 50)
      h1.closeIdleConnections()
      const forced = setTimeout(() => {
        onForced()
        for (const socket of sockets) socket.destroy()
      }, drainMs)
      for (const socket of sockets) if (isUndecided(socket)) socket.destroy()
      await closed
      clearTimeout(forced)
      clearInterval(idle)
      h1.close()
      h2.close()
    },
  }
}

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
/** HTTP/1 has no method that begins with these three bytes. */
const decidingBytes = 3
const undecided = new WeakSet<Socket>()

function isUndecided(socket: Socket): boolean {
  return undecided.has(socket)
}

function sniff(socket: Socket, h1: Http1Server, h2: Http2Server, timeoutMs: number): void {
  undecided.add(socket)
  const timer = setTimeout(() => socket.destroy(), timeoutMs)
  socket.on("close", () => clearTimeout(timer))
  let seen: Buffer = Buffer.alloc(0)
  const peek = () => {
    // Kept here and not put back into the socket until decided: bytes put back are readable again,
    // at once, so that one byte `P` would turn this into a loop that nothing else gets out of.
    for (let bytes = socket.read(); bytes !== null; bytes = socket.read()) {
      seen = Buffer.concat([seen, bytes])
    }
    const length = Math.min(seen.byteLength, preface.byteLength)
    const isPreface = seen.subarray(0, length).equals(preface.subarray(0, length))
    if (isPreface && length < decidingBytes) return
    clearTimeout(timer)
    undecided.delete(socket)
    socket.off("readable", peek)
    socket.unshift(seen)
    const server = isPreface ? h2 : h1
    server.emit("connection", socket)
    if (!isPreface) socket.resume()
  }
  socket.on("readable", peek)
}

function http1Server(
  handle: (request: EdgeRequest, response: EdgeResponse) => void,
  limits: ListenerLimits,
): Http1Server {
  const server = createHttp1Server(
    {
      maxHeaderSize: limits.maxHeaderBytes,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      connectionsCheckingInterval: limits.checkIntervalMs,
      // Refused by the guard, which says so in the way of every other error.
      requireHostHeader: false,
    },
    handle,
  )
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (socket.writable && error.code !== "ECONNRESET") socket.end(parserError(error.code))
    else socket.destroy()
  })
  server.on("connect", (_, socket) => {
    socket.end(rawError("CONNECT is not served", 400, "Bad Request"))
  })
  server.on("checkExpectation", (_, response: ServerResponse) => {
    response.writeHead(417).end()
  })
  return server
}

function parserError(code: string | undefined): string {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return rawError("its headers are too large", 431, "Request Header Fields Too Large")
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return rawError("it did not arrive in time", 408, "Request Timeout")
    default:
      return rawError("it is no valid HTTP", 400, "Bad Request")
  }
}

function http2Server(
  handle: (request: EdgeRequest, response: EdgeResponse) => void,
  limits: ListenerLimits,
  sessions: Set<ServerHttp2Session>,
): Http2Server {
  const server = createHttp2Server(
    {
      maxSessionMemory: limits.maxSessionMemoryMb,
      maxSessionInvalidFrames: 100,
      maxSessionRejectedStreams: 100,
      settings: {
        maxConcurrentStreams: limits.maxConcurrentStreams,
        maxHeaderListSize: limits.maxHeaderBytes,
      },
    },
    handle,
  )
  // Both are told by the end of the connection or stream as well; unheard they would end the process.
  server.on("sessionError", () => undefined)
  server.on("session", (session) => {
    sessions.add(session)
    session.on("error", () => undefined)
    session.setTimeout(limits.idleTimeoutMs, () => session.close())
    session.on("close", () => sessions.delete(session))
    const timer = setTimeout(() => session.destroy(), limits.headersTimeoutMs)
    session.once("stream", () => clearTimeout(timer))
    session.once("close", () => clearTimeout(timer))
  })
  server.on("stream", (stream) => stream.on("error", () => undefined))
  return server
}

/**
 * First a GOAWAY that names no last stream, so that requests on their way are still taken, then the
 * real one: a client never sees a request refused that it sent before it could know.
 */
function sendGoaway(session: ServerHttp2Session): void {
  if (session.destroyed || session.closed) return
  session.goaway(constants.NGHTTP2_NO_ERROR, 2 ** 31 - 1)
  setTimeout(() => session.close(), 100)
}

function bind(server: Server, host: string, port: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  server.once("error", reject)
  server.listen(port, host, () => {
    server.off("error", reject)
    server.on("error", () => undefined)
    const address = server.address()
    resolve(typeof address === "object" && address !== null ? address.port : port)
  })
  return promise
}
