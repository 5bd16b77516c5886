import { once } from "node:events"
import type { ServerResponse } from "node:http"
import { type DescMessage, type JsonValue, type Message, toJson } from "@bufbuild/protobuf"
import { Code, type ConnectError } from "@connectrpc/connect"
import { errorJson, httpStatusOf } from "../../mesh/edge-errors.ts"
import { type EdgeRequest, type EdgeResponse, sendError } from "../../mesh/edge-responses.ts"
import { reasonOf } from "../../mesh/errors.ts"

/** How a stream is written. */
export type StreamFormat = "ndjson" | "sse"

/** A stream that says nothing for this long is told to have begun. */
const headersAfterMs = 250
/** Proxies drop a connection on which nothing moves. */
const keepAliveMs = 15_000

export function writeJson(
  response: EdgeResponse,
  status: number,
  body: JsonValue,
  headers: Readonly<Record<string, string>> = {},
): void {
  const text = `${JSON.stringify(body)}\n`
  writeHead(response, status, { "content-type": "application/json", ...headers })
  response.end(text)
}

export function writeText(response: EdgeResponse, status: number, text: string): void {
  writeHead(response, status, { "content-type": "text/plain; charset=utf-8" })
  response.end(text)
}

/** Answers with an error, by the status of its code save where HTTP has a better word. */
export function writeError(
  request: EdgeRequest,
  response: EdgeResponse,
  error: ConnectError,
): void {
  if (response.headersSent) {
    response.destroy()
    return
  }
  if (error.code === Code.Unauthenticated) {
    response.setHeader("www-authenticate", 'Bearer realm="runwarden"')
  }
  sendError(request, response, error, statusOf(error))
}

function statusOf(error: ConnectError): number {
  if (reasonOf(error) === "REQUEST_TOO_LARGE") return 413
  if (error.code === Code.Unimplemented) return 404
  return httpStatusOf(error.code)
}

/** A message by the JSON mapping of Protobuf, with fields that are zero. */
export function messageJson(schema: DescMessage, message: Message): JsonValue {
  return toJson(schema, message, { alwaysEmitImplicit: true })
}

/**
 * Writes a stream: one JSON object `{"result":…}` a line, or one event each. An error before the
 * first message is an answer of its own; one after it is the last line, `{"error":…}`.
 */
export async function writeStream(
  request: EdgeRequest,
  response: EdgeResponse,
  format: StreamFormat,
  schema: DescMessage,
  messages: AsyncIterable<Message>,
  toError: (error: unknown) => ConnectError,
): Promise<void> {
  const contentType = format === "sse" ? "text/event-stream" : "application/x-ndjson"
  const begin = () => {
    if (response.headersSent) return
    writeHead(response, 200, { "content-type": contentType, "x-accel-buffering": "no" })
    // Headers go out now, not with the first message.
    if ("flushHeaders" in response) response.flushHeaders()
  }
  const early = setTimeout(begin, headersAfterMs)
  const alive = setInterval(() => {
    if (format === "sse" && response.headersSent)
      (response as ServerResponse).write(": keep-alive\n\n")
  }, keepAliveMs)
  try {
    for await (const message of messages) {
      begin()
      const json = messageJson(schema, message)
      await write(response, format === "sse" ? sse("message", json) : line({ result: json }))
    }
    begin()
    response.end()
  } catch (error) {
    const mapped = toError(error)
    if (!response.headersSent) return writeError(request, response, mapped)
    const body = errorJson(mapped)
    response.end(format === "sse" ? sse("error", body) : line({ error: body }))
  } finally {
    clearTimeout(early)
    clearInterval(alive)
  }
}

function writeHead(
  response: EdgeResponse,
  status: number,
  headers: Readonly<Record<string, string>>,
): void {
  const common = { "cache-control": "no-store", "x-content-type-options": "nosniff" }
  ;(response as ServerResponse).writeHead(status, { ...common, ...headers })
}

/** Waits while the reader is slower than the stream. */
async function write(response: EdgeResponse, text: string): Promise<void> {
  if ((response as ServerResponse).write(text) || response.destroyed) return
  const left = new AbortController()
  const wait = { signal: left.signal }
  try {
    await Promise.race([once(response, "drain", wait), once(response, "close", wait)])
  } finally {
    left.abort()
  }
}

function line(json: JsonValue): string {
  return `${JSON.stringify(json)}\n`
}

function sse(event: string, json: JsonValue): string {
  return `event: ${event}\ndata: ${JSON.stringify(json)}\n\n`
}
