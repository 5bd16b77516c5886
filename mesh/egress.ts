/**
 * The one way out for URLs that somebody else names: webhooks, remote servers, whatever they
 * redirect to.
 *
 * 1. Only http and https URLs without a user or a password; https on its usual ports alone, unless
 *    the deployment allows more.
 * 2. A name is resolved here, every address of it must be public, and the connection goes to one of
 *    these and to no other: nobody resolves the name a second time. The other end of the connection
 *    is looked at once more before anything is sent.
 * 3. Redirects are followed here, each checked like the first URL; what might be secret does not
 *    cross to another origin.
 * 4. Time and size are capped while the body streams, and size as it is unpacked.
 * 5. An origin that the deployment's configuration names may stand on this machine or in a private
 *    network. That holds for exactly this scheme, host and port, and not for what they redirect to.
 */
import { lookup as systemLookup } from "node:dns/promises"
import { isIP, type LookupFunction, Socket } from "node:net"
import { Agent, buildConnector, fetch as undiciFetch } from "undici"
import { type AddressKind, kindOfAddress } from "./egress-address.ts"

/** Nothing was sent, or nothing more: what was asked for is not allowed to leave. */
export class EgressRefused extends Error {}

export interface EgressOptions {
  /** Origins of the deployment's own configuration, such as `http://127.0.0.1:7300` (5). */
  readonly configured?: readonly string[]
  /** What other URLs may begin with. Default: https alone. */
  readonly schemes?: readonly ("https:" | "http:")[]
  /** Ports of other URLs. Default: 443 and 8443. */
  readonly ports?: readonly number[] | "any"
  /** The addresses of a name. Default: as the machine resolves it. */
  readonly resolve?: (hostname: string) => Promise<readonly string[]>
}

export interface EgressLimits {
  /** For everything, until the body has been read. Default: no limit but the caller's signal. */
  readonly timeoutMs?: number
  /** Of the body, unpacked. Default: no limit. */
  readonly maxBytes?: number
}

export interface Egress extends AsyncDisposable {
  /**
   * As the global `fetch`, with redirects followed by the rules above. Throws EgressRefused for what
   * must not leave; the body fails with it when it is longer than it may be.
   */
  fetch(url: string | URL, init?: RequestInit, limits?: EgressLimits): Promise<Response>
}

const publicKinds: readonly AddressKind[] = ["public"]
const privateKinds: readonly AddressKind[] = ["public", "private"]
const maxRedirects = 3
const maxAddresses = 64
const connectTimeoutMs = 10_000
const maxHeaderBytes = 32_768
const redirectStatuses = new Set([301, 302, 303, 307, 308])
const bodilessStatuses = new Set([101, 103, 204, 205, 304])
/** What another origin may be told after a redirect (3). */
const harmlessHeaders = ["accept", "accept-language", "content-type", "user-agent"]

/**
 * The kinds of addresses that a URL may lead to. Throws EgressRefused for a URL that may not be asked
 * for at all (1), and for a host that is an address of another kind.
 */
export function kindsOfUrl(
  url: URL,
  { schemes = ["https:"], ports = [443, 8443], configured = [] }: EgressOptions,
): readonly AddressKind[] {
  if (!/^https?:$/.test(url.protocol)) refuse(`the scheme ${url.protocol} is not allowed`)
  if (url.username !== "" || url.password !== "") refuse("a URL with a user or a password")
  if (configured.some((origin) => new URL(origin).origin === url.origin)) {
    return requireKind(url, privateKinds)
  }
  if (!schemes.some((scheme) => scheme === url.protocol)) {
    refuse(`the scheme ${url.protocol} is not allowed`)
  }
  const port = Number(url.port || (url.protocol === "https:" ? 443 : 80))
  if (ports !== "any" && !ports.includes(port)) refuse(`the port ${port} is not allowed`)
  return requireKind(url, publicKinds)
}

/** The addresses of a name. Throws EgressRefused unless all are of these kinds, and there is one (2). */
export async function addressesOf(
  hostname: string,
  kinds: readonly AddressKind[],
  resolve: NonNullable<EgressOptions["resolve"]> = resolveBySystem,
): Promise<readonly string[]> {
  const addresses = await resolve(hostname)
  const wrong = addresses.find((address) => !kinds.includes(kindOfAddress(address)))
  if (addresses.length > 0 && addresses.length <= maxAddresses && wrong === undefined) {
    return addresses
  }
  throw new EgressRefused(`${hostname} leads to ${wrong ?? "no address"}`)
}

export function createEgress(options: EgressOptions = {}): Egress {
  const { resolve = resolveBySystem } = options
  const toPublic = createAgent(resolve, publicKinds)
  const toConfigured = createAgent(resolve, privateKinds)

  /** The agent for a URL that may be asked for. */
  function agentFor(url: URL): Agent {
    return kindsOfUrl(url, options) === publicKinds ? toPublic : toConfigured
  }

  async function follow(first: URL, init: RequestInit, signal: AbortSignal | null) {
    let url = first
    let { method = "GET", body = null } = init
    let headers = new Headers(init.headers)
    for (let hops = 0; ; hops++) {
      const dispatcher = agentFor(url)
      const response = await undiciFetch(url, {
        ...{ method, headers: [...headers], redirect: "manual", dispatcher, signal },
        body: body as string | Uint8Array | null,
      })
      const location = response.headers.get("location")
      if (!redirectStatuses.has(response.status) || location === null) return response
      if (init.redirect === "manual") return response
      await response.body?.cancel()
      if (init.redirect === "error") refuse("a redirect")
      if (hops === maxRedirects) refuse(`more than ${maxRedirects} redirects`)
      const next = parse(location, url)
      const isPost = response.status < 303 && method.toUpperCase() === "POST"
      if (response.status === 303 || isPost) {
        if (method.toUpperCase() !== "HEAD") method = "GET"
        body = null
        headers.delete("content-type")
      }
      if (body !== null && typeof body !== "string" && !(body instanceof Uint8Array)) {
        refuse("a redirect of a body that was a stream")
      }
      if (next.origin !== url.origin) {
        if (body !== null) refuse("a redirect of a body to another origin")
        headers = new Headers([...headers].filter(([name]) => harmlessHeaders.includes(name)))
      }
      url = next
    }
  }

  return {
    async fetch(given, init = {}, limits = {}) {
      const signal = signalOf(init.signal ?? undefined, limits.timeoutMs)
      try {
        const response = await follow(parse(given), init, signal)
        const { status, statusText } = response
        const headers = new Headers([...response.headers])
        const body = bodilessStatuses.has(status) ? null : response.body
        const capped = body === null ? null : body.pipeThrough(cap(limits.maxBytes))
        return new Response(capped, { status, statusText, headers })
      } catch (error) {
        throw refusalIn(error) ?? error
      }
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([toPublic.destroy(), toConfigured.destroy()])
    },
  }
}

/** Connections to addresses of the named kinds alone (2). */
function createAgent(
  resolve: NonNullable<EgressOptions["resolve"]>,
  kinds: readonly AddressKind[],
): Agent {
  const lookup: LookupFunction = (hostname, options, done) => {
    addressesOf(hostname, kinds, resolve).then(
      (addresses) => {
        if (options.all) {
          const all = addresses.map((address) => ({ address, family: isIP(address) }))
          done(null, all)
        } else {
          const [address = ""] = addresses
          done(null, address, isIP(address))
        }
      },
      (error: Error) => done(error, "", 0),
    )
  }
  const connect = buildConnector({ timeout: connectTimeoutMs, allowH2: false, lookup })
  return new Agent({
    allowH2: false,
    maxHeaderSize: maxHeaderBytes,
    connect(options, callback) {
      connect(options, (error, socket) => {
        if (error !== null || !(socket instanceof Socket)) {
          callback(error ?? new EgressRefused("no connection"), null)
          return
        }
        const kind = kindOfAddress(socket.remoteAddress ?? "")
        if (kinds.includes(kind)) {
          callback(null, socket)
          return
        }
        socket.destroy()
        callback(new EgressRefused(`${options.hostname} led to ${socket.remoteAddress}`), null)
      })
    },
  })
}

/** A host that is an address is never resolved, so it is looked at here. */
function requireKind<Kinds extends readonly AddressKind[]>({ hostname }: URL, kinds: Kinds): Kinds {
  const host = hostname.replace(/^\[(.*)\]$/, "$1")
  if (hostname === "") refuse("a URL without a host")
  if (isIP(host) !== 0 && !kinds.includes(kindOfAddress(host))) refuse(`the address ${host}`)
  return kinds
}

async function resolveBySystem(hostname: string): Promise<readonly string[]> {
  const found = await systemLookup(hostname, { all: true, verbatim: true })
  return found.map(({ address }) => address)
}

function parse(given: string | URL, base?: URL): URL {
  try {
    return new URL(given, base)
  } catch {
    return refuse("what is no URL")
  }
}

function signalOf(signal: AbortSignal | undefined, timeoutMs: number | undefined) {
  const signals = [
    ...(signal === undefined ? [] : [signal]),
    ...(timeoutMs === undefined ? [] : [AbortSignal.timeout(timeoutMs)]),
  ]
  return signals.length === 0 ? null : AbortSignal.any(signals)
}

function cap(maxBytes = Number.POSITIVE_INFINITY): TransformStream<Uint8Array, Uint8Array> {
  let bytes = 0
  return new TransformStream({
    transform(chunk, controller) {
      bytes += chunk.length
      if (bytes > maxBytes) controller.error(new EgressRefused(`more than ${maxBytes} bytes`))
      else controller.enqueue(chunk)
    },
  })
}

/** What was refused while connecting arrives as the cause of a failed fetch. */
function refusalIn(error: unknown): EgressRefused | undefined {
  if (error instanceof EgressRefused) return error
  if (error instanceof AggregateError) return error.errors.map(refusalIn).find(Boolean)
  return error instanceof Error ? refusalIn(error.cause) : undefined
}

function refuse(what: string): never {
  throw new EgressRefused(`refused: ${what}`)
}
