import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import { type Any, anyPack } from "@bufbuild/protobuf/wkt"
import { Code, ConnectError } from "@connectrpc/connect"
import { Metadata, type StatusObject, status } from "@grpc/grpc-js"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { StatusSchema } from "../gen/google/rpc/status_pb.ts"

/** Where a gRPC status carries its typed details. */
const detailsKey = "grpc-status-details-bin"

/** What trailers may weigh: peers refuse header blocks of more than 8 to 16 KB. */
const maxDetailsBytes = 6 * 1024
const maxMessageLength = 1024
const maxViolations = 16

/** Converts headers to gRPC metadata; of several binary values of one key only one is kept. */
export function toMetadata(headers: Headers): Metadata {
  const metadata = new Metadata()
  headers.forEach((value, key) => {
    if (key.startsWith("grpc-") || key.startsWith(":")) return
    if (key.endsWith("-bin")) metadata.set(key, Buffer.from(value, "base64"))
    else metadata.set(key, value)
  })
  return metadata
}

/** Converts gRPC metadata to headers; binary values become unpadded base64, as Connect has them. */
export function toHeaders(metadata: Metadata): Headers {
  const headers = new Headers()
  for (const [key, value] of Object.entries(metadata.getMap())) {
    if (key.startsWith(":") || key === detailsKey) continue
    headers.set(key, typeof value === "string" ? value : unpadded(value))
  }
  return headers
}

/** The gRPC status of an error, details included. Codes are the same numbers in both worlds. */
export function toStatus(error: ConnectError): StatusObject {
  const metadata = toMetadata(error.metadata)
  if (error.details.length > 0) metadata.set(detailsKey, Buffer.from(statusBytes(error)))
  return { code: error.code as number as status, details: messageOf(error), metadata }
}

/**
 * An error as an encoded `google.rpc.Status`. Details that would not fit into trailers are cut:
 * violations after the sixteenth, then whole details from the end, so that ErrorInfo, which is
 * first, always arrives.
 */
export function statusBytes(error: ConnectError): Uint8Array {
  const message = messageOf(error)
  const details = error.details.map(toAny)
  let bytes = encode(error.code, message, details)
  while (bytes.byteLength > maxDetailsBytes && details.length > 1) {
    details.pop()
    bytes = encode(error.code, message, details)
  }
  return bytes
}

/** The error that an encoded `google.rpc.Status` means, its details readable by `findDetails`. */
export function fromStatusBytes(bytes: Uint8Array): ConnectError {
  const { code, message, details } = fromBinary(StatusSchema, bytes)
  const error = new ConnectError(message, code === status.OK ? Code.Internal : (code as Code))
  error.details = readDetails(details)
  return error
}

/** The status of an error as gRPC trailers in text, for servers that are not grpc-js. */
export function statusTrailer(error: ConnectError): Readonly<Record<string, string>> {
  const { code, details, metadata } = toStatus(error)
  const [bytes] = metadata.get(detailsKey)
  return {
    "grpc-status": `${code}`,
    "grpc-message": encodeURIComponent(details),
    ...(bytes instanceof Buffer ? { [detailsKey]: unpadded(bytes) } : {}),
  }
}

/**
 * The error that a peer's status means, its details readable by `findDetails`. The peer's headers
 * stay behind: an error that is passed on must not bring them along.
 */
export function fromStatus(received: StatusObject): ConnectError {
  const code = received.code === status.OK ? Code.Internal : (received.code as number as Code)
  const error = new ConnectError(received.details, code)
  const [bytes] = received.metadata.get(detailsKey)
  if (bytes instanceof Buffer) error.details = readStatusDetails(bytes)
  return error
}

/** Whether a status carries typed details. */
export function hasDetails(metadata: Metadata | null | undefined): boolean {
  return (metadata?.get(detailsKey).length ?? 0) > 0
}

type Detail = ConnectError["details"][number]

function toAny(detail: Detail): Any {
  if ("type" in detail) {
    const typeUrl = `type.googleapis.com/${detail.type}`
    return { $typeName: "google.protobuf.Any", typeUrl, value: detail.value }
  }
  const message = create(detail.desc, detail.value)
  if (detail.desc.typeName === BadRequestSchema.typeName && "fieldViolations" in message) {
    const violations = message.fieldViolations as unknown[]
    const cut = { fieldViolations: violations.slice(0, maxViolations) } as typeof detail.value
    return anyPack(detail.desc, create(detail.desc, cut))
  }
  return anyPack(detail.desc, message)
}

function encode(code: number, message: string, details: Any[]): Uint8Array {
  return toBinary(StatusSchema, create(StatusSchema, { code, message, details }))
}

function messageOf(error: ConnectError): string {
  return error.rawMessage.slice(0, maxMessageLength).toWellFormed()
}

function readStatusDetails(bytes: Buffer): ConnectError["details"] {
  try {
    return readDetails(fromBinary(StatusSchema, bytes).details)
  } catch {
    // A peer that sends broken details still sent a code and a message.
    return []
  }
}

function readDetails(details: readonly Any[]): ConnectError["details"] {
  return details.map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1),
    value,
  }))
}

function unpadded(bytes: Buffer): string {
  return bytes.toString("base64").replace(/=+$/, "")
}
