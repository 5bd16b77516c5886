/**
 * The way out for gRPC addresses that somebody else names, under the rules of `egress.ts`.
 *
 * 1. A channel connects to addresses that were looked at here and to no other: nobody else resolves the
 *    name, and it is resolved and looked at anew whenever a connection is lost.
 * 2. The other end proves by its certificate that it is the host that was named, unless the deployment's
 *    configuration allows it to be spoken with in the clear.
 * 3. What the other end says in its errors stays here: it may be what it was shown.
 */
import { isIP } from "node:net"
import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect"
import { ChannelCredentials, experimental, Metadata, status } from "@grpc/grpc-js"
import { addressesOf, type EgressOptions, kindsOfUrl } from "./egress.ts"
import { RunwardenError, reasonOf, retryAfterOf } from "./errors.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { neverSent, wasNeverSent } from "./never-sent.ts"
import type { Runtime } from "./service.ts"

export interface ForeignGrpcOptions {
  /** `https://host:port`, or `http://` for one that is spoken with in the clear. */
  readonly url: URL
  readonly caller: Runtime
  /** Whom the token names that goes with each call. */
  readonly audience: string
  readonly egress: EgressOptions
  /** What goes with each call besides, as it is at that moment. */
  readonly headers: () => Iterable<readonly [string, string]>
}

const scheme = "runwarden-egress"
const minPauseMs = 1_000

/** Throws EgressRefused for a URL that may not be asked for. */
export function createForeignGrpcTransport(
  options: ForeignGrpcOptions,
): Transport & AsyncDisposable {
  const { url, caller, audience, egress, headers } = options
  kindsOfUrl(url, egress)
  const id = String(++lastId)
  ways.set(id, { url, egress })
  const transport = createGrpcTransport(
    `${scheme}://${id}/${url.hostname}:${portOf(url)}`,
    caller,
    audience,
    {
      credentials:
        url.protocol === "https:"
          ? ChannelCredentials.createSsl()
          : ChannelCredentials.createInsecure(),
      channelOptions: { "grpc.use_local_subchannel_pool": 1 },
      innermost: [withHeaders(headers), withoutWords],
      hasBatches: false,
    },
  )
  return {
    unary: transport.unary.bind(transport),
    stream: transport.stream.bind(transport),
    async [Symbol.asyncDispose]() {
      await transport[Symbol.asyncDispose]()
      ways.delete(id)
    },
  }
}

/** Where each channel of this process may lead, by the authority of its target. */
const ways = new Map<string, Pick<ForeignGrpcOptions, "url" | "egress">>()
let lastId = 0

type Target = experimental.GrpcUri

class EgressResolver implements experimental.Resolver {
  readonly #target: Target
  readonly #listener: experimental.ResolverListener
  #pending: NodeJS.Timeout | undefined
  #isResolving = false
  #isDestroyed = false
  #lastTime = Number.NEGATIVE_INFINITY

  constructor(target: Target, listener: experimental.ResolverListener) {
    this.#target = target
    this.#listener = listener
  }

  static getDefaultAuthority({ path }: Target): string {
    return path
  }

  updateResolution(): void {
    this.#isDestroyed = false
    if (this.#isResolving || this.#pending !== undefined) return
    const pauseMs = Math.max(0, this.#lastTime + minPauseMs - performance.now())
    this.#pending = setTimeout(() => void this.#resolve(), pauseMs)
  }

  destroy(): void {
    this.#isDestroyed = true
    clearTimeout(this.#pending)
    this.#pending = undefined
  }

  async #resolve(): Promise<void> {
    this.#pending = undefined
    this.#isResolving = true
    this.#lastTime = performance.now()
    const found = await endpointsOf(this.#target).catch(() => undefined)
    this.#isResolving = false
    if (this.#isDestroyed) return
    const result =
      found === undefined
        ? experimental.statusOrFromError<experimental.Endpoint[]>({
            code: status.UNAVAILABLE,
            details: `Name resolution failed for target ${this.#target.path}`,
            metadata: new Metadata(),
          })
        : experimental.statusOrFromValue<experimental.Endpoint[]>(found)
    this.#listener(result, {}, null, "")
  }
}

async function endpointsOf({ authority = "" }: Target): Promise<experimental.Endpoint[]> {
  const way = ways.get(authority)
  if (way === undefined) throw new Error("the channel is closed")
  const { url, egress } = way
  const kinds = kindsOfUrl(url, egress)
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1")
  const hosts = isIP(host) === 0 ? await addressesOf(host, kinds, egress.resolve) : [host]
  return hosts.map((address) => ({ addresses: [{ host: address, port: portOf(url) }] })) // (1)
}

experimental.registerResolver(scheme, EgressResolver)

function withHeaders(headers: ForeignGrpcOptions["headers"]): Interceptor {
  return (next) => (request) => {
    for (const [name, value] of headers()) request.header.set(name, value)
    return next(request)
  }
}

/** Keeps of an error what it means, and none of its words (3). */
const withoutWords: Interceptor = (next) => async (request) => {
  try {
    return await next(request)
  } catch (error) {
    const plain = wordless(error)
    throw wasNeverSent(error) ? neverSent(plain) : plain
  }
}

function wordless(error: unknown): Error {
  const reason = reasonOf(error)
  if (reason === "SHUTTING_DOWN") return new RunwardenError(reason, { service: "the provider" })
  if (reason === "LIMIT_EXCEEDED") {
    const retryAfterMs = retryAfterOf(error)
    return new RunwardenError(
      reason,
      { limit: "of the provider", maximum: "its own" },
      retryAfterMs === undefined ? {} : { retryAfterMs },
    )
  }
  const { code } = ConnectError.from(error)
  return new ConnectError(`the provider answered ${Code[code]}`, code)
}

function portOf({ port, protocol }: URL): number {
  return Number(port || (protocol === "https:" ? 443 : 80))
}
