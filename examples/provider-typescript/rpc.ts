/** grpc-js carries bytes, gen/ knows the messages: this joins the two. */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf"
import { type handleUnaryCall, type Metadata, type Server, status } from "@grpc/grpc-js"

/** A gRPC status that says: this call did not run, and never will. */
export class Refusal extends Error {
  readonly code: status

  constructor(code: status, message: string) {
    super(message)
    this.code = code
  }
}

/** What a call brings besides its message. */
export interface Call {
  readonly metadata: Metadata
  /** Aborted when the caller has given up, or its deadline has passed. */
  readonly signal: AbortSignal
  readonly deadline: Date
}

export function addMethod<I extends DescMessage, O extends DescMessage>(
  server: Server,
  { parent, name, input, output }: DescMethodUnary<I, O>,
  handle: (request: MessageShape<I>, call: Call) => Promise<MessageInitShape<O>>,
): void {
  const serve: handleUnaryCall<MessageShape<I>, MessageShape<O>> = async (call, callback) => {
    const controller = new AbortController()
    const { signal } = controller
    const deadline = new Date(call.getDeadline())
    call.on("cancelled", () => controller.abort())
    try {
      const answer = await handle(call.request, { metadata: call.metadata, signal, deadline })
      callback(null, create(output, answer))
    } catch (error) {
      if (error instanceof Refusal) return callback({ code: error.code, details: error.message })
      if (signal.aborted) return callback({ code: status.CANCELLED })
      // INTERNAL leaves open whether the call took effect, and so it should.
      console.error(error)
      callback({ code: status.INTERNAL, details: "Internal error." })
    }
  }
  const write = (message: MessageShape<O>) => Buffer.from(toBinary(output, message))
  const read = (bytes: Buffer) => fromBinary(input, bytes)
  server.register(`/${parent.typeName}/${name}`, serve, write, read, "unary")
}
