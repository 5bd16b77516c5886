/**
 * What carries a conversation with an MCP server over Streamable HTTP.
 *
 * 1. Redirects stay within the server's origin, and headers with secrets with them. Requests leave by
 *    the egress alone: the server may stand where the configuration says, and nothing else may be
 *    reached through it.
 * 2. One message is read up to its cap while it streams in: more than that ends the response.
 */
import { StreamableHTTPClientTransport, type Transport } from "@modelcontextprotocol/client"
import { createEgress } from "../../../mesh/egress.ts"

export interface HttpOptions {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly maxMessageBytes: number
  /** Origins that the deployment names; the URL's own where it is the deployment that gave it. */
  readonly configured: readonly string[]
}

export function httpTransport(options: HttpOptions): Transport {
  const { url, headers, maxMessageBytes, configured } = options
  const egress = createEgress({ configured })
  const transport = new StreamableHTTPClientTransport(url, {
    requestInit: { headers: { ...headers } },
    fetch: async (input, init) => capped(await egress.fetch(input, init), maxMessageBytes),
    redirectPolicy: "same-origin", // (1)
    // A stream that breaks is not resumed: its call is lost, and what that means is decided above.
    reconnectionOptions: {
      initialReconnectionDelay: 1_000,
      maxReconnectionDelay: 30_000,
      reconnectionDelayGrowFactor: 2,
      maxRetries: 0,
    },
  })
  const close = transport.close.bind(transport)
  transport.close = async () => {
    await close()
    await egress[Symbol.asyncDispose]()
  }
  return transport
}

/** The response with a body that fails once one of its messages is longer than `maxBytes`. */
function capped(response: Response, maxBytes: number): Response {
  if (response.body === null) return response
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true
  let bytes = 0
  let previous = 0
  const body = response.body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        for (const byte of isStream ? chunk : []) {
          // Two line ends in a row end an event.
          bytes = byte === lineFeed && previous === lineFeed ? 0 : bytes + 1
          if (byte !== carriageReturn) previous = byte
          if (bytes > maxBytes) break
        }
        if (!isStream) bytes += chunk.length
        if (bytes > maxBytes)
          controller.error(new Error(`a message is longer than ${maxBytes} bytes`))
        else controller.enqueue(chunk)
      },
    }),
  )
  const { status, statusText, headers } = response
  return new Response(body, { status, statusText, headers })
}

const lineFeed = 10
const carriageReturn = 13
