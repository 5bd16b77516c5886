import { callSignal } from "../../mesh/call-signal.ts"
import type { EdgeRequest, EdgeResponse } from "../../mesh/edge-responses.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { edgeLimits } from "../../mesh/server-limits.ts"

/** The headers that the gateway itself reads; no other one is looked at or goes on. */
const readHeaders = [
  "accept",
  "authorization",
  "connect-timeout-ms",
  "traceparent",
  "tracestate",
  "x-api-key",
]

export function headersOf(request: EdgeRequest): Headers {
  const headers = new Headers()
  for (const name of readHeaders) {
    const value = request.headers[name]
    if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(", ") : value)
  }
  return headers
}

/** The deadline that the caller asks for, as Connect writes it. */
export function timeoutOf(header: Headers): number | undefined {
  const text = header.get("connect-timeout-ms")
  if (text === null) return undefined
  if (/^\d{1,10}$/.test(text)) return Number(text)
  const field = "connect-timeout-ms"
  throw new RunwardenError("MALFORMED_REQUEST", { cause: `${field} is no number`, field })
}

/** Aborted when the caller has gone before its answer was written. */
export function closedSignal(response: EdgeResponse): AbortSignal {
  const controller = new AbortController()
  const onClose = () => {
    if (!response.writableFinished) controller.abort(new Error("the caller has gone"))
  }
  if (response.destroyed) onClose()
  response.once("close", onClose)
  return controller.signal
}

/** Reads a body of at most so many bytes; what announces more is refused before it is read. */
export async function readBody(request: EdgeRequest, limitBytes: number): Promise<Uint8Array> {
  if (Number(request.headers["content-length"] ?? 0) > limitBytes) throw tooLarge(limitBytes)
  const chunks: Uint8Array[] = []
  let size = 0
  const body = callSignal(undefined, edgeLimits.requestTimeoutMs)
  for await (const chunk of body.guard(request as AsyncIterable<Uint8Array>)) {
    size += chunk.byteLength
    if (size > limitBytes) throw tooLarge(limitBytes)
    chunks.push(chunk)
  }
  if (size > 0) requireJson(request)
  return Buffer.concat(chunks)
}

function requireJson(request: EdgeRequest): void {
  const type = request.headers["content-type"] ?? "application/json"
  if (!/^application\/(json|[\w.-]+\+json)\s*(;|$)/i.test(type)) {
    throw new RunwardenError("MALFORMED_REQUEST", {
      cause: "the content-type must be application/json",
      field: "content-type",
    })
  }
  const encoding = request.headers["content-encoding"] ?? "identity"
  if (encoding === "identity") return
  throw new RunwardenError("MALFORMED_REQUEST", {
    cause: "the body must not be compressed",
    field: "content-encoding",
  })
}

function tooLarge(limitBytes: number): RunwardenError {
  return new RunwardenError("REQUEST_TOO_LARGE", { limit_bytes: `${limitBytes}` })
}
