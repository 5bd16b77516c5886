/**
 * What leaves the edge when something went wrong: on every protocol an error says its reason, also
 * one that the protocol library made before any interceptor ran.
 */
import type { IncomingMessage, ServerResponse } from "node:http"
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2"
import { Code, ConnectError } from "@connectrpc/connect"
import type { UniversalServerResponse } from "@connectrpc/connect/protocol"
import {
  codeOfName,
  type ErrorPlace,
  errorJson,
  httpStatusOf,
  isTyped,
  typedError,
} from "./edge-errors.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { statusTrailer } from "./grpc-metadata.ts"

/** A request of either HTTP version, as Node gives it. */
export type EdgeRequest = IncomingMessage | Http2ServerRequest
/** A response of either HTTP version, as Node gives it. */
export type EdgeResponse = ServerResponse | Http2ServerResponse

/**
 * Answers a request with an error: as a gRPC status where the request is gRPC, otherwise as the
 * JSON that the Connect protocol has and REST shares. Closes an HTTP/1.1 connection whose body was
 * not read, for its next bytes are no request.
 */
export function sendError(
  request: EdgeRequest,
  response: EdgeResponse,
  error: ConnectError,
  httpStatus = httpStatusOf(error.code),
): void {
  if (response.headersSent || response.writableEnded) return
  // The two classes agree in all that is used here, but not in their overloads.
  const plain = response as ServerResponse
  if (request.httpVersionMajor < 2 && !request.complete) response.setHeader("connection", "close")
  const type = request.headers["content-type"] ?? ""
  if (type.startsWith("application/grpc")) {
    // Without `writeHead`: on HTTP/2 it would send headers that do not end the stream, and a gRPC
    // client takes a status from headers only where they are the whole answer.
    const isWeb = type.startsWith("application/grpc-web")
    plain.setHeader("content-type", isWeb ? "application/grpc-web+proto" : "application/grpc")
    for (const [name, value] of Object.entries(statusTrailer(error))) plain.setHeader(name, value)
    plain.statusCode = 200
    plain.end()
    return
  }
  const body = JSON.stringify(errorJson(error))
  plain.writeHead(httpStatus, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
  })
  plain.end(body)
}

/** The bytes of an HTTP/1.1 answer to what Node's parser did not take as a request. */
export function rawError(cause: string, httpStatus: number, statusText: string): string {
  const error = toConnectError(new RunwardenError("MALFORMED_REQUEST", { cause }))
  const body = JSON.stringify(errorJson(error))
  return [
    `HTTP/1.1 ${httpStatus} ${statusText}`,
    "connection: close",
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    "",
    body,
  ].join("\r\n")
}

/** Gives every error of a protocol library's answer its reason; leaves all others as they are. */
export async function withTypedErrors(
  response: UniversalServerResponse,
  place: ErrorPlace,
): Promise<UniversalServerResponse> {
  const type = response.header?.get("content-type") ?? ""
  if (type.startsWith("application/grpc-web")) return withFrames(response, grpcWebFrame(place))
  if (type.startsWith("application/grpc")) return withTrailer(response, place)
  if (type.startsWith("application/connect+")) return withFrames(response, endStreamFrame(place))
  return response.status === 200 ? response : withJsonError(response, place)
}

async function withJsonError(
  response: UniversalServerResponse,
  place: ErrorPlace,
): Promise<UniversalServerResponse> {
  const error = await readJsonError(response, place)
  const bytes = Buffer.from(JSON.stringify(errorJson(error)))
  const header = new Headers(response.header)
  header.set("content-type", "application/json")
  header.set("content-length", `${bytes.byteLength}`)
  const isPlain = response.status === 415 || response.status === 405 || response.status === 505
  return {
    status: isPlain ? response.status : httpStatusOf(error.code),
    header,
    body: chunks([bytes]),
  }
}

async function readJsonError(
  response: UniversalServerResponse,
  place: ErrorPlace,
): Promise<ConnectError> {
  if (response.body === undefined) {
    const cause =
      response.status === 415 ? "its content type is not supported" : "its HTTP method is not POST"
    return toConnectError(new RunwardenError("MALFORMED_REQUEST", { cause }))
  }
  const parts: Uint8Array[] = []
  for await (const part of response.body) parts.push(part)
  return readErrorJson(JSON.parse(Buffer.concat(parts).toString()), place)
}

interface ErrorBody {
  readonly code?: string
  readonly message?: string
  readonly details?: readonly { readonly type: string; readonly value: string }[]
}

function readErrorJson(body: ErrorBody, place: ErrorPlace): ConnectError {
  const error = new ConnectError(body.message ?? "", codeOfName(body.code) ?? Code.Internal)
  error.details = (body.details ?? []).map(({ type, value }) => ({
    type,
    value: Buffer.from(value, "base64"),
  }))
  return isTyped(error) ? error : typedError(error.code, error.rawMessage, place)
}

function withTrailer(
  response: UniversalServerResponse,
  place: ErrorPlace,
): UniversalServerResponse {
  const { body, trailer } = response
  if (body === undefined || trailer === undefined) return response
  async function* untilTrailer(messages: AsyncIterable<Uint8Array>) {
    yield* messages
    if (trailer !== undefined) typeTrailer(trailer, place)
  }
  return { ...response, body: untilTrailer(body) }
}

function typeTrailer(trailer: Headers, place: ErrorPlace): void {
  const code = Number(trailer.get("grpc-status"))
  if (code === 0 || trailer.has("grpc-status-details-bin") || Code[code] === undefined) return
  const message = decodeURIComponent(trailer.get("grpc-message") ?? "")
  for (const [key, value] of Object.entries(statusTrailer(typedError(code, message, place)))) {
    trailer.set(key, value)
  }
}

type Frame = (frame: Uint8Array) => Uint8Array

function withFrames(response: UniversalServerResponse, convert: Frame): UniversalServerResponse {
  if (response.body === undefined) return response
  async function* converted(frames: AsyncIterable<Uint8Array>) {
    // The library writes one frame at a time: five bytes of head, the first of them flags.
    for await (const frame of frames) yield convert(frame)
  }
  return { ...response, body: converted(response.body) }
}

const endStreamFlag = 0b10
const trailerFlag = 0b1000_0000
const frameHeadBytes = 5

function endStreamFrame(place: ErrorPlace): Frame {
  return (frame) => {
    if (frame[0] !== endStreamFlag) return frame
    const end = JSON.parse(payloadOf(frame)) as { error?: ErrorBody }
    if (end.error === undefined) return frame
    const error = errorJson(readErrorJson(end.error, place))
    return newFrame(endStreamFlag, JSON.stringify({ ...end, error }))
  }
}

function grpcWebFrame(place: ErrorPlace): Frame {
  return (frame) => {
    if (frame[0] !== trailerFlag) return frame
    const trailer = new Headers()
    for (const line of payloadOf(frame).split("\r\n")) {
      const colon = line.indexOf(":")
      if (colon > 0) trailer.append(line.slice(0, colon).trim(), line.slice(colon + 1).trim())
    }
    typeTrailer(trailer, place)
    const lines = [...trailer].map(([key, value]) => `${key}: ${value}\r\n`)
    return newFrame(trailerFlag, lines.join(""))
  }
}

function payloadOf(frame: Uint8Array): string {
  return Buffer.from(frame.subarray(frameHeadBytes)).toString()
}

function newFrame(flags: number, payload: string): Uint8Array {
  const bytes = Buffer.from(payload)
  const head = Buffer.alloc(frameHeadBytes)
  head[0] = flags
  head.writeUInt32BE(bytes.byteLength, 1)
  return Buffer.concat([head, bytes])
}

async function* chunks(parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* parts
}
