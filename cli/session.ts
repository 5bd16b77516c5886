/** One command's connection to the mesh. */
import { type DescMethod, type DescService, getOption } from "@bufbuild/protobuf"
import type { Client, Transport } from "@connectrpc/connect"
import { WorkspaceService } from "../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { access, Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGatewayTransport } from "../mesh/client-transport.ts"
import { CliError } from "./failure.ts"
import type { RoleName, Target } from "./target.ts"

const timeoutMs = 30_000

export class Session {
  readonly target: Target
  readonly signal: AbortSignal
  readonly #transport: Transport
  #workspaceId: string | undefined

  constructor(target: Target, signal: AbortSignal) {
    this.target = target
    this.signal = signal
    this.#transport = transportByRole(target)
    this.#workspaceId = target.workspaceId
  }

  client<S extends DescService>(service: S): Client<S> {
    return createMeshClient(service, this.#transport)
  }

  /** What every call is given: it ends with the command. */
  get options() {
    return { signal: this.signal }
  }

  /** The workspace: as given, or the only one that the key's owner belongs to. */
  async workspaceId(): Promise<string> {
    if (this.#workspaceId !== undefined) return this.#workspaceId
    const workspaces = this.client(WorkspaceService)
    const { memberships } = await workspaces.listWorkspaces({}, this.options)
    const [first, ...others] = memberships.flatMap(({ workspace }) => workspace ?? [])
    if (first === undefined || others.length > 0) {
      throw new CliError(
        first === undefined
          ? "The owner of this API key belongs to no workspace."
          : "The owner of this API key belongs to several workspaces.",
        { next: "Name one with --workspace or RUNWARDEN_WORKSPACE." },
      )
    }
    this.#workspaceId = first.workspaceId
    return first.workspaceId
  }
}

/** The local mesh's demo members each have a key: a call goes out as the least one who may make it. */
function transportByRole(target: Target): Transport {
  const made = new Map<string, Transport>()
  function transportFor(method: DescMethod): Transport {
    const apiKey = target.keyFor(leastRole(method))
    const known = made.get(apiKey)
    if (known !== undefined) return known
    const transport = createGatewayTransport({ url: target.url, apiKey, timeoutMs })
    made.set(apiKey, transport)
    return transport
  }
  return {
    unary: (method, ...rest) => transportFor(method).unary(method, ...rest),
    stream: (method, ...rest) => transportFor(method).stream(method, ...rest),
  }
}

/** A member may read and start runs, so that a viewer never acts unless asked for. */
function leastRole(method: DescMethod): RoleName {
  switch (getOption(method, access).role) {
    case Role.APPROVER:
      return "approver"
    case Role.ADMIN:
      return "admin"
    default:
      return "member"
  }
}
