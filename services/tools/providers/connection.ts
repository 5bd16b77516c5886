/** Where a workspace's provider is reached, and what may be shown to it. Pure. */
import type { MessageInitShape } from "@bufbuild/protobuf"
import type {
  Credential,
  ProviderConnection,
  ProviderConnectionSchema,
} from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import { EgressRefused, kindsOfUrl } from "../../../mesh/egress.ts"
import { RunwardenError, type Violation } from "../../../mesh/errors.ts"
import type { ProviderCommand } from "../mcp/servers.ts"

export type Connection =
  | { readonly kind: "grpc"; readonly address: string; readonly plaintext: boolean }
  | { readonly kind: "mcp_http"; readonly url: string }
  | { readonly kind: "mcp_stdio"; readonly command: string }

/** What the deployment allows. */
export interface ConnectionRules {
  /** Origins that may be on this machine or in a private network. */
  readonly origins: readonly string[]
  readonly commands: ReadonlyMap<string, ProviderCommand>
}

/** The connection that a request asks for. Throws INVALID_REQUEST where it is not allowed. */
export function readConnection(
  message: ProviderConnection | undefined,
  { origins, commands }: ConnectionRules,
): Connection {
  const kind = message?.kind
  switch (kind?.case) {
    case "grpc": {
      const { address, plaintext } = kind.value
      requireAllowed("connection.grpc.address", grpcUrl({ address, plaintext }), origins)
      return { kind: "grpc", address, plaintext }
    }
    case "mcpHttp": {
      const { url } = kind.value
      requireAllowed("connection.mcp_http.url", url, origins)
      return { kind: "mcp_http", url }
    }
    case "mcpStdio": {
      const { command } = kind.value
      if (commands.has(command)) return { kind: "mcp_stdio", command }
      const known =
        commands.size === 0 ? "it has none" : `it has ${[...commands.keys()].join(", ")}`
      throw invalid(
        "connection.mcp_stdio.command",
        `is no command that the deployment allows: ${known}`,
      )
    }
    default:
      throw invalid("connection", "has no kind that is known")
  }
}

/** A gRPC address as the URL that the rules of what leaves the mesh are about. */
export function grpcUrl({ address, plaintext }: { address: string; plaintext: boolean }): string {
  return `${plaintext ? "http" : "https"}://${address}`
}

export function toConnection(
  connection: Connection,
): MessageInitShape<typeof ProviderConnectionSchema> {
  switch (connection.kind) {
    case "grpc": {
      const { address, plaintext } = connection
      return { kind: { case: "grpc", value: { address, plaintext } } }
    }
    case "mcp_http":
      return { kind: { case: "mcpHttp", value: { url: connection.url } } }
    case "mcp_stdio":
      return { kind: { case: "mcpStdio", value: { command: connection.command } } }
  }
}

/** What carries the protocol, or an identity of the mesh. */
const reserved =
  /^(runwarden-.*|grpc-.*|.*-bin|mcp-.*|host|te|trailer|transfer-encoding|connection|keep-alive|upgrade|content-.*|accept|accept-.*|user-agent|expect|traceparent|tracestate|baggage|last-event-id|proxy-.*)$/

/**
 * The name under which a credential is kept. Throws INVALID_REQUEST for one that the connection does
 * not take: `field` is where it stands in the request.
 */
export function credentialName(
  connection: Connection,
  name: string,
  { commands }: ConnectionRules,
  field: string,
): string {
  if (connection.kind !== "mcp_stdio") {
    const lower = name.toLowerCase()
    if (name.includes("_") && connection.kind === "mcp_http") {
      throw invalid(field, "is no name of a header: it holds an underscore")
    }
    if (reserved.test(lower)) throw invalid(field, `${lower} cannot be set`)
    return lower
  }
  const variables = commands.get(connection.command)?.variables ?? []
  if (variables.includes(name)) return name
  const allowed = variables.length === 0 ? "none" : variables.join(", ")
  throw invalid(field, `is no variable that the deployment allows for this command: ${allowed}`)
}

/** The credentials of a request by the names under which they are kept. */
export function readCredentials(
  connection: Connection,
  credentials: readonly Credential[],
  rules: ConnectionRules,
  field: string,
): ReadonlyMap<string, string> {
  const read = new Map<string, string>()
  credentials.forEach(({ name, value }, index) => {
    const place = `${field}[${index}].name`
    const key = credentialName(connection, name, rules, place)
    if (read.has(key)) throw invalid(place, `${key} is there twice`)
    read.set(key, value)
  })
  return read
}

export function invalid(field: string, description: string): RunwardenError {
  const violations: readonly Violation[] = [{ field, description }]
  return new RunwardenError("INVALID_REQUEST", { field }, { violations })
}

function requireAllowed(field: string, url: string, origins: readonly string[]): void {
  try {
    kindsOfUrl(new URL(url), { configured: origins })
  } catch (error) {
    if (error instanceof EgressRefused) {
      throw invalid(
        field,
        `${error.message}; the deployment names others in TOOLS_PROVIDER_ORIGINS`,
      )
    }
    throw invalid(field, "is no address")
  }
}
