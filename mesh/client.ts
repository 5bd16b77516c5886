import type { DescService } from "@bufbuild/protobuf"
import { type CallOptions, type Client, createClient, type Transport } from "@connectrpc/connect"
import { callSignal } from "./call-signal.ts"

/**
 * Creates a client like Connect's own, with one difference: leaving a `for await` over a stream
 * cancels it. Connect's client drops `return` from its iterables, so that no transport can see
 * that nobody reads any more, and the handler runs on.
 */
export function createMeshClient<S extends DescService>(
  service: S,
  transport: Transport,
): Client<S> {
  const plain = createClient(service, transport)
  const methods = { ...plain } as Record<string, unknown>
  for (const method of service.methods) {
    if (method.methodKind !== "server_streaming") continue
    methods[method.localName] = cancelling(methods[method.localName] as ServerStream)
  }
  return methods as Client<S>
}

type ServerStream = (request: unknown, options?: CallOptions) => AsyncIterable<unknown>

function cancelling(start: ServerStream): ServerStream {
  return (request, options) => {
    const life = callSignal(options?.signal)
    const messages = start(request, { ...options, signal: life.signal })
    return life.guard(messages)
  }
}
