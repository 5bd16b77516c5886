import type { DescMethod, DescMethodServerStreaming, DescMethodUnary } from "@bufbuild/protobuf"

/** Most calls in one batch. */
export const maxBatchItems = 64

/** The RPC that carries calls of this one together, where its service has one: `BatchX` for `X`. */
export function batchOf(method: DescMethod): DescMethodServerStreaming | undefined {
  const { localName } = method
  const sibling = method.parent.method[`batch${localName[0]?.toUpperCase()}${localName.slice(1)}`]
  return sibling?.methodKind === "server_streaming"
    ? (sibling as DescMethodServerStreaming)
    : undefined
}

/** The RPC whose calls this one carries; undefined for every other. */
export function unaryOf(method: DescMethod): DescMethodUnary | undefined {
  if (method.methodKind !== "server_streaming" || !method.name.startsWith("Batch")) return undefined
  return method.parent.methods.find(
    (other) => other.methodKind === "unary" && batchOf(other) === method,
  ) as DescMethodUnary | undefined
}
