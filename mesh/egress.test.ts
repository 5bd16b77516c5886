/** The way out: what somebody else names never leads to this machine, its networks or its secrets. */
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http"
import type { AddressInfo, LookupFunction } from "node:net"
import { gzipSync } from "node:zlib"
import { Agent, fetch as plainFetch } from "undici"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { createEgress, type Egress, EgressRefused } from "./egress.ts"

/** What names lead to; the network itself is never asked. */
const names: Readonly<Record<string, readonly string[]>> = {
  "loopback.test": ["127.0.0.1"],
  "loopback6.test": ["::1"],
  "mapped.test": ["::ffff:127.0.0.1"],
  "mixed.test": ["8.8.8.8", "127.0.0.1"],
  "zero.test": ["0.0.0.0"],
  "private.test": ["10.0.0.5"],
  "metadata.test": ["169.254.169.254"],
  "127.0.0.1.nip.io": ["127.0.0.1"],
  "nothing.test": [],
  localhost: ["127.0.0.1", "::1"],
  "localhost.": ["127.0.0.1"],
  "app.localhost": ["127.0.0.1"],
  "xn--bcher-kva.test": ["127.0.0.1"],
}

let canary: Server
let redirector: Server
let port: number
let from: string
let connections = 0
let requests: IncomingMessage[] = []
const resolve = async (name: string) => names[name] ?? []
const open: Egress[] = []

beforeAll(async () => {
  canary = await listen((request, response) => {
    requests.push(request)
    response.end("reached")
  })
  canary.on("connection", () => connections++)
  redirector = await listen((request, response) => {
    const query = new URL(request.url ?? "/", "http://x").searchParams
    const status = Number(query.get("status") ?? 302)
    const location = Buffer.from(query.get("to") ?? "/").toString("latin1")
    response.writeHead(status, { location }).end()
  })
  port = portOf(canary)
  from = `http://127.0.0.1:${portOf(redirector)}`
})
beforeEach(() => {
  connections = 0
  requests = []
})
afterAll(async () => {
  await Promise.all(open.map((egress) => egress[Symbol.asyncDispose]()))
  for (const server of [canary, redirector]) {
    server.closeAllConnections()
    server.close()
  }
})

/** Hosts, written for a URL, that lead to this machine when nobody looks. */
const reaching = [
  ...["127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "0.0.0.0", "0", "0x0"],
  ...["2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "0177.1"],
  ...[
    "127.0.0.1.",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "[::1]",
    "[::]",
  ],
  ...["[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0:0]"],
  ...["localhost", "LOCALHOST", "localhost.", "app.localhost", "loopback.test", "loopback6.test"],
  ...["mapped.test", "zero.test", "127.0.0.1.nip.io", "bücher.test", "loopback。test"],
]

/** Hosts that lead elsewhere where nothing may go. */
const elsewhere = [
  ...["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1"],
  ...["169.254.169.254", "169.254.170.2", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376"],
  ...["[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[::127.0.0.1]", "[::ffff:10.0.0.1]"],
  ...["[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::7f00:1]"],
  ...["[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::]", "[fd00::1]", "[fc00::1]"],
  ...["[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]"],
  ...["[2606:4700::5efe:7f00:1]", "[2606:4700::200:5efe:a00:1]"],
  ...["192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.0.0.1", "192.88.99.1"],
  ...["224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"],
  ...["private.test", "metadata.test", "mixed.test", "nothing.test", "unknown.test"],
]

function lenient(configured: readonly string[] = []): Egress {
  const egress = createEgress({ schemes: ["http:", "https:"], ports: "any", resolve, configured })
  open.push(egress)
  return egress
}

test("there are more than sixty ways", () => {
  expect(reaching.length + elsewhere.length).toBeGreaterThan(80)
})

describe("a host that must not be reached", () => {
  test.each([...reaching, ...elsewhere])("%s", async (host) => {
    await expect(lenient().fetch(`http://${host}:${port}/`)).rejects.toThrow(EgressRefused)
    await expect(lenient().fetch(`https://${host}:${port}/`)).rejects.toThrow(EgressRefused)
    expect(connections).toBe(0)
  })

  test.each([...reaching, ...elsewhere])("%s, behind a redirect", async (host) => {
    const to = encodeURIComponent(`http://${host}:${port}/`)
    await expect(lenient([from]).fetch(`${from}/?to=${to}`)).rejects.toThrow(EgressRefused)
    expect(connections).toBe(0)
  })

  test("is reached by all the ways to this machine when nobody looks", async () => {
    const lookup: LookupFunction = (name, _, done) => {
      const [address = ""] = names[name] ?? []
      done(null, [{ address, family: address.includes(":") ? 6 : 4 }])
    }
    const dispatcher = new Agent({ connect: { lookup } })
    const missed: string[] = []
    for (const host of reaching) {
      const reached = await plainFetch(`http://${host}:${port}/`, { dispatcher })
        .then((response) => response.text())
        .catch(() => "")
      if (reached !== "reached") missed.push(host)
    }
    await dispatcher.destroy()
    // A machine without IPv6 misses those.
    expect(missed.filter((host) => !/\[|6|mapped/.test(host))).toEqual([])
    expect(requests.length).toBeGreaterThan(25)
  })
})

describe("a URL that is not for the web", () => {
  test.each([
    ...["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://127.0.0.1:6379/_x", "data:,x"],
    ...["javascript:1", "unix:/var/run/docker.sock", "http+unix://%2Frun%2Fdocker.sock/x"],
    ...["ws://8.8.8.8/", "blob:https://8.8.8.8/1", "http://user@8.8.8.8/", "https://u:p@8.8.8.8/"],
    ...["https://8.8.8.8@127.0.0.1/", "//8.8.8.8/", "", "https://", "http://[::1", "http://a b/"],
  ])("%s", async (url) => {
    await expect(lenient().fetch(url)).rejects.toThrow(EgressRefused)
    const to = encodeURIComponent(url)
    if (url !== "" && !url.startsWith("//")) {
      await expect(lenient([from]).fetch(`${from}/?to=${to}`)).rejects.toThrow(EgressRefused)
    }
  })
})

describe("unless the deployment allows more", () => {
  test.each([
    ["http", "http://8.8.8.8/", /scheme http/],
    ["the port of a database", "https://8.8.8.8:5432/", /port 5432/],
    ["the port of plain web pages", "https://8.8.8.8:80/", /port 80/],
    ["ssh", "https://8.8.8.8:22/", /port 22/],
  ])("%s is refused", async (_, url, why) => {
    await using egress = createEgress({ resolve })
    await expect(egress.fetch(url)).rejects.toThrow(why)
  })
})

describe("an origin of the configuration", () => {
  test("may stand on this machine", async () => {
    const response = await lenient([`http://127.0.0.1:${port}`]).fetch(`http://127.1:${port}/a?b`)
    expect(await response.text()).toBe("reached")
    expect(requests.map(({ url }) => url)).toEqual(["/a?b"])
  })

  test("is this port, this host and this scheme, and no other", async () => {
    const egress = lenient([`http://127.0.0.1:${port}`])
    for (const url of [`${from}/`, `http://127.0.0.2:${port}/`, `http://localhost:${port}/`]) {
      await expect(egress.fetch(url)).rejects.toThrow(EgressRefused)
    }
    expect(connections).toBe(0)
  })

  test("may be a name, but not of a metadata service", async () => {
    const egress = lenient([`http://loopback.test:${port}`, "http://metadata.test"])
    expect((await egress.fetch(`http://loopback.test:${port}/`)).status).toBe(200)
    await expect(egress.fetch("http://metadata.test/")).rejects.toThrow(/169\.254\.169\.254/)
  })

  test("is resolved once for a connection, however short its answer lives", async () => {
    let asked = 0
    const answers = ["127.0.0.1", "169.254.169.254"]
    await using egress = createEgress({
      configured: [`http://rebinding.test:${port}`],
      resolve: async () => [answers[asked++] ?? "10.0.0.1"],
    })
    expect((await egress.fetch(`http://rebinding.test:${port}/`)).status).toBe(200)
    expect(asked).toBe(1)
  })
})

describe("redirects", () => {
  test("end after three", async () => {
    await expect(lenient([from]).fetch(`${from}/`)).rejects.toThrow(/more than 3 redirects/)
  })

  test("are not followed where the caller says so", async () => {
    const response = await lenient([from]).fetch(`${from}/`, { redirect: "manual" })
    expect(response.status).toBe(302)
    await expect(lenient([from]).fetch(`${from}/`, { redirect: "error" })).rejects.toThrow(
      EgressRefused,
    )
  })

  test("take no secret and no body to another origin", async () => {
    const there = `http://127.0.0.1:${port}`
    const to = encodeURIComponent(`${there}/`)
    const headers = { authorization: "Bearer s", cookie: "s", "x-api-key": "s", accept: "a/b" }
    const egress = lenient([from, there])
    await (await egress.fetch(`${from}/?to=${to}`, { headers })).text()
    expect(requests[0]?.headers).toMatchObject({ accept: "a/b" })
    expect(JSON.stringify(requests[0]?.rawHeaders)).not.toMatch(/Bearer|cookie|x-api-key/i)
    const post = { method: "POST", body: "secret" }
    const refused = egress.fetch(`${from}/?to=${to}&status=307`, post)
    await expect(refused).rejects.toThrow(/body to another origin/)
    await (await egress.fetch(`${from}/?to=${to}&status=303`, post)).text()
    expect(requests.map(({ method }) => method)).toEqual(["GET", "GET"])
  })
})

describe("an answer", () => {
  async function answeredBy(listener: RequestListener) {
    const server = await listen(listener)
    const origin = `http://127.0.0.1:${portOf(server)}`
    const close = async () => {
      server.closeAllConnections()
      server.close()
    }
    return { url: `${origin}/`, egress: lenient([origin]), [Symbol.asyncDispose]: close }
  }

  test("without end is cut at its size", async () => {
    let sent = 0
    await using peer = await answeredBy((_, response) => {
      const send = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536))) sent += 65_536
      }
      response.on("drain", send)
      send()
    })
    const response = await peer.egress.fetch(peer.url, {}, { maxBytes: 1_000_000 })
    await expect(response.arrayBuffer()).rejects.toThrow(/more than 1000000 bytes/)
    expect(sent).toBeLessThan(50_000_000)
  })

  test("is measured unpacked", async () => {
    await using peer = await answeredBy((_, response) => {
      response
        .writeHead(200, { "content-encoding": "gzip" })
        .end(gzipSync(Buffer.alloc(50_000_000)))
    })
    const response = await peer.egress.fetch(peer.url, {}, { maxBytes: 1_000_000 })
    await expect(response.arrayBuffer()).rejects.toThrow(/more than 1000000 bytes/)
  })

  test("that drips is cut at its time, also while the body comes", async () => {
    await using peer = await answeredBy((_, response) => {
      const timer = setInterval(() => response.write("x"), 20)
      response.on("close", () => clearInterval(timer))
    })
    const response = await peer.egress.fetch(peer.url, {}, { timeoutMs: 200 })
    await expect(response.text()).rejects.toThrow(/timeout/)
  })

  test("that never begins is cut at its time", async () => {
    await using peer = await answeredBy(() => undefined)
    await expect(peer.egress.fetch(peer.url, {}, { timeoutMs: 100 })).rejects.toThrow(/timeout/)
  })

  test("with headers without end is refused", async () => {
    await using peer = await answeredBy((_, response) => {
      response.writeHead(200, { "x-long": "x".repeat(40_000) }).end()
    })
    await expect(peer.egress.fetch(peer.url)).rejects.toThrow()
  })
})

async function listen(listener: RequestListener): Promise<Server> {
  const server = createServer(listener)
  const host = await new Promise<string>((done) => {
    server.once("error", () => done("0.0.0.0"))
    server.listen(0, "::", () => done(""))
  })
  if (host !== "") await new Promise<void>((done) => server.listen(0, host, done))
  return server
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port
}
