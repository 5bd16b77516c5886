/**
 * The four doors of the gateway, for bytes that no client of ours would send: REST, Connect with
 * JSON and with Protobuf, and gRPC by a client that knows nothing of Connect.
 */
import type { DescMethod } from "@bufbuild/protobuf"
import { type Code, ConnectError } from "@connectrpc/connect"
import * as grpc from "@grpc/grpc-js"
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts"
import { codeOfName, httpStatusOf } from "../mesh/edge-errors.ts"
import { metadataOf } from "../mesh/errors.ts"
import { fromStatus } from "../mesh/grpc-metadata.ts"
import { methodName } from "../mesh/method-chain.ts"

/** What a door answered; without an error, `reason` is undefined and `text` is the answer. */
export interface DoorAnswer {
  /** Undefined over gRPC, which has none of its own. */
  readonly httpStatus: number | undefined
  readonly code: Code | undefined
  readonly reason: string | undefined
  readonly domain: string | undefined
  readonly metadata: Readonly<Record<string, string>>
  /** The fields that the answer names, from its violations and its metadata. */
  readonly fields: readonly string[]
  /** Everything that was answered, as a caller could read it. */
  readonly text: string
}

export interface Doors extends Disposable {
  rest(httpMethod: string, path: string, body?: string | Uint8Array): Promise<DoorAnswer>
  connectJson(method: DescMethod, body: string | Uint8Array): Promise<DoorAnswer>
  connectBinary(method: DescMethod, body: Uint8Array): Promise<DoorAnswer>
  grpc(method: DescMethod, body: Uint8Array): Promise<DoorAnswer>
}

/** Opens the doors of a gateway for the holder of a key. */
export function openDoors(url: string, apiKey: string): Doors {
  const client = new grpc.Client(new URL(url).host, grpc.credentials.createInsecure())
  const authorization = `Bearer ${apiKey}`

  async function post(path: string, type: string, body: string | Uint8Array) {
    return fetch(`${url}${path}`, {
      method: "POST",
      headers: { authorization, "content-type": type },
      body: Buffer.from(body),
    })
  }

  async function connect(method: DescMethod, body: string | Uint8Array, codec: "json" | "proto") {
    const path = `/${methodName(method)}`
    if (method.methodKind === "unary") {
      return readPlain(await post(path, `application/${codec}`, body))
    }
    return readEnveloped(await post(path, `application/connect+${codec}`, envelope(body)))
  }

  return {
    async rest(httpMethod, path, body) {
      const headers = { authorization, "content-type": "application/json" }
      const sent = body === undefined ? {} : { body: Buffer.from(body) }
      return readPlain(await fetch(`${url}${path}`, { method: httpMethod, headers, ...sent }))
    },
    connectJson: (method, body) => connect(method, body, "json"),
    connectBinary: (method, body) => connect(method, body, "proto"),
    grpc(method, body) {
      const headers = new grpc.Metadata()
      headers.set("authorization", authorization)
      const { promise, resolve } = Promise.withResolvers<DoorAnswer>()
      const call = client.makeServerStreamRequest(
        `/${methodName(method)}`,
        () => Buffer.from(body),
        (bytes) => bytes,
        {},
        headers,
        { deadline: Date.now() + 10_000 },
      )
      const parts: Buffer[] = []
      call.on("data", (bytes: Buffer) => {
        parts.push(bytes)
        // A watch of something that does not end has shown that it was let in.
        if (method.methodKind === "server_streaming") call.cancel()
      })
      call.on("error", (error: grpc.ServiceError) => {
        if (parts.length > 0) return resolve(accepted(undefined, Buffer.concat(parts).toString()))
        const failure = fromStatus(error)
        const details = error.metadata.get("grpc-status-details-bin").join()
        resolve(refused(failure, undefined, `${error.details} ${details}`))
      })
      call.on("end", () => resolve(accepted(undefined, Buffer.concat(parts).toString())))
      return promise
    },
    [Symbol.dispose]: () => client.close(),
  }
}

interface ErrorBody {
  readonly code?: string
  readonly message?: string
  readonly details?: readonly { readonly type: string; readonly value: string }[]
}

async function readPlain(response: Response): Promise<DoorAnswer> {
  if (response.status === 200 && response.headers.get("content-type")?.includes("ndjson")) {
    await response.body?.cancel()
    return accepted(200, "a stream")
  }
  const text = await response.text()
  if (response.status === 200) return accepted(200, text)
  return refused(readError(JSON.parse(text) as ErrorBody), response.status, text)
}

const endOfStream = 0b10
const headBytes = 5

/** Reads up to the first message or the end, whichever comes first. */
async function readEnveloped(response: Response): Promise<DoorAnswer> {
  if (response.status !== 200) return readPlain(response)
  let bytes = Buffer.alloc(0)
  for await (const part of response.body ?? []) {
    bytes = Buffer.concat([bytes, part])
    if (bytes.byteLength < headBytes) continue
    const end = headBytes + bytes.readUInt32BE(1)
    if (bytes.byteLength < end) continue
    const text = bytes.subarray(headBytes, end).toString()
    if (((bytes[0] ?? 0) & endOfStream) === 0) return accepted(200, text)
    const { error } = JSON.parse(text) as { error?: ErrorBody }
    return error === undefined ? accepted(200, text) : refused(readError(error), undefined, text)
  }
  throw new Error("the stream ended without a word")
}

function envelope(body: string | Uint8Array): Uint8Array {
  const bytes = Buffer.from(body)
  const head = Buffer.alloc(headBytes)
  head.writeUInt32BE(bytes.byteLength, 1)
  return Buffer.concat([head, bytes])
}

function readError({ code, message, details }: ErrorBody): ConnectError {
  const error = new ConnectError(message ?? "", codeOfName(code))
  error.details = (details ?? []).map(({ type, value }) => ({
    type,
    value: Buffer.from(value, "base64"),
  }))
  return error
}

function accepted(httpStatus: number | undefined, text: string): DoorAnswer {
  const none = { code: undefined, reason: undefined, domain: undefined }
  return { ...none, httpStatus, metadata: {}, fields: [], text }
}

function refused(error: ConnectError, httpStatus: number | undefined, text: string): DoorAnswer {
  const infos = error.findDetails(ErrorInfoSchema)
  if (httpStatus !== undefined && !statusFits(error.code, httpStatus)) {
    throw new Error(`HTTP ${httpStatus} does not fit the code ${error.code}: ${text}`)
  }
  const metadata = metadataOf(error)
  const named = error
    .findDetails(BadRequestSchema)
    .flatMap((detail) => detail.fieldViolations.map((violation) => violation.field))
  return {
    httpStatus,
    code: error.code,
    reason: infos.length === 1 ? infos[0]?.reason : `${infos.length} reasons`,
    domain: infos[0]?.domain,
    metadata,
    fields: metadata.field === undefined ? named : [...named, metadata.field],
    text,
  }
}

/** REST says 413 where the Connect protocol has one status for all that is exhausted. */
function statusFits(code: Code, httpStatus: number): boolean {
  return httpStatusOf(code) === httpStatus || [404, 405, 413, 415].includes(httpStatus)
}
