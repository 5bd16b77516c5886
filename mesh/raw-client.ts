/** Raw bytes at a port, for tests that no well-behaved client can make. */
import { connect } from "node:net"

/** HTTP/2's preface and an empty SETTINGS frame. */
export const h2Hello = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  frame(4, 0, 0),
])

/** One HTTP/2 frame. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = new Uint8Array(),
): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.byteLength, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** A HEADERS frame that ends its headers, every field a literal without indexing. */
export function headersFrame(
  stream: number,
  fields: readonly (readonly [string, string])[],
  endsStream = true,
): Buffer {
  const block = fields.flatMap(([name, value]) => [
    Buffer.from([0]),
    hpackString(name),
    hpackString(value),
  ])
  return frame(1, endsStream ? 0x5 : 0x4, stream, Buffer.concat(block))
}

/**
 * Sends the parts, with a pause after each, and gives what came back until the peer ends, the text matches
 * `until`, or the time is over.
 */
export function sendRaw(
  port: number,
  parts: readonly (string | Uint8Array)[],
  options: { readonly pauseMs?: number; readonly forMs?: number; readonly until?: RegExp } = {},
): Promise<{ readonly text: string; readonly bytes: Buffer; readonly isClosed: boolean }> {
  const { promise, resolve } = Promise.withResolvers<{
    text: string
    bytes: Buffer
    isClosed: boolean
  }>()
  const received: Buffer[] = []
  const socket = connect(port, "127.0.0.1")
  const finish = (isClosed: boolean) => {
    clearTimeout(timer)
    socket.destroy()
    const bytes = Buffer.concat(received)
    resolve({ text: bytes.toString("latin1"), bytes, isClosed })
  }
  const timer = setTimeout(
    () => finish(false),
    options.forMs ?? (options.until === undefined ? 400 : 5_000),
  )
  socket.setNoDelay(true)
  socket.on("data", (bytes) => {
    received.push(bytes)
    if (options.until?.test(Buffer.concat(received).toString("latin1")) === true) finish(false)
  })
  socket.on("error", () => finish(true))
  socket.on("close", () => finish(true))
  const send = async () => {
    for (const part of parts) {
      if (socket.destroyed) return
      socket.write(part)
      await new Promise((proceed) => setTimeout(proceed, options.pauseMs ?? 20))
    }
  }
  send().catch(() => finish(true))
  return promise
}

function hpackString(text: string): Buffer {
  const bytes = Buffer.from(text, "latin1")
  if (bytes.byteLength < 127) return Buffer.concat([Buffer.from([bytes.byteLength]), bytes])
  const rest: number[] = []
  let left = bytes.byteLength - 127
  while (left >= 128) {
    rest.push((left % 128) + 128)
    left = Math.floor(left / 128)
  }
  return Buffer.concat([Buffer.from([127, ...rest, left]), bytes])
}
