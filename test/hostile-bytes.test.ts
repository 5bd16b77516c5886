// Bytes that end an unguarded server, at the gateway's port and at every service's own: a typed
// answer or a closed connection, the process lives, and whoever behaves is served.
import { gzipSync } from "node:zlib"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { serviceNames } from "../mesh/identity.ts"
import { frame, h2Hello, headersFrame, sendRaw } from "../mesh/raw-client.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let ours: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh({ wire: "grpc" })
  ours = await mesh.addWorkspace()
})
afterAll(() => mesh?.[Symbol.asyncDispose]())

const rpc = "/runwarden.projects.v1.ProjectService/ListProjects"
const json = "content-type: application/json\r\ncontent-length: 2\r\n"

const http1: readonly (readonly [string, string])[] = [
  ["HTTP/1.0 without Host", `POST ${rpc} HTTP/1.0\r\n${json}\r\n{}`],
  ["HTTP/1.1 without Host", `POST ${rpc} HTTP/1.1\r\n${json}\r\n{}`],
  ["Host: [", `POST ${rpc} HTTP/1.1\r\nHost: [\r\n${json}\r\n{}`],
  ["Host: [ at a path of REST", `GET /ai/runs HTTP/1.1\r\nHost: [\r\n\r\n`],
  ["Host: a b", `POST ${rpc} HTTP/1.1\r\nHost: a b\r\n${json}\r\n{}`],
  ["absolute form", `POST http://[${rpc} HTTP/1.1\r\nHost: a\r\n${json}\r\n{}`],
  ["a path of //", `GET // HTTP/1.1\r\nHost: a\r\n\r\n`],
  ["CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"],
  ["an asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"],
  ["two lengths", `POST ${rpc} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n${json}\r\n{}`],
  ["a negative length", `POST ${rpc} HTTP/1.1\r\nHost: a\r\ncontent-length: -1\r\n\r\n`],
  [
    "length and chunks",
    `POST ${rpc} HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n${json}\r\n0\r\n\r\n`,
  ],
  ["headers of 64 KB", `POST ${rpc} HTTP/1.1\r\nHost: a\r\nx: ${"y".repeat(65_536)}\r\n\r\n`],
  ["TLS", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n"],
]

const fields = (authority: string, path = rpc, type = "application/grpc") =>
  [
    [":method", "POST"],
    [":scheme", "http"],
    [":path", path],
    [":authority", authority],
    ["content-type", type],
  ] as const

const http2: readonly (readonly [string, readonly (string | Uint8Array)[]])[] = [
  [":authority [", [h2Hello, headersFrame(1, fields("["))]],
  [":authority [, Connect", [h2Hello, headersFrame(1, fields("[", rpc, "application/json"))]],
  [
    "no :authority",
    [
      h2Hello,
      headersFrame(
        1,
        fields("a").filter(([n]) => n !== ":authority"),
      ),
    ],
  ],
  ["a path of //", [h2Hello, headersFrame(1, fields("a", "//"))]],
  ["a path without /", [h2Hello, headersFrame(1, fields("a", "x"))]],
  ["a path that is not ASCII", [h2Hello, headersFrame(1, fields("a", "/\xe9\xff"))]],
  ["P alone", ["P"]],
  ["a preface in bytes", [...h2Hello].map((byte) => Buffer.from([byte]))],
  ["a frame of an unknown type", [h2Hello, frame(200, 255, 7, Buffer.alloc(100))]],
  ["DATA on stream 0", [h2Hello, frame(0, 1, 0, Buffer.alloc(10))]],
  ["a CONTINUATION of nothing", [h2Hello, frame(9, 4, 1, Buffer.alloc(10))]],
  ["headers that are no HPACK", [h2Hello, frame(1, 5, 1, Buffer.alloc(20, 0xff))]],
  [
    "a message of 4 GB",
    [
      h2Hello,
      headersFrame(1, fields("a"), false),
      frame(0, 1, 1, Buffer.from([0, 255, 255, 255, 255])),
    ],
  ],
  [
    "1,000 resets",
    [
      h2Hello,
      Buffer.concat(
        Array.from({ length: 1_000 }, (_, index) => [
          headersFrame(2 * index + 1, fields("a"), false),
          frame(3, 0, 2 * index + 1, Buffer.alloc(4)),
        ]).flat(),
      ),
    ],
  ],
  ["1,000 pings", [h2Hello, Buffer.concat(Array(1_000).fill(frame(6, 0, 0, Buffer.alloc(8))))]],
  ["1,000 settings", [h2Hello, Buffer.concat(Array(1_000).fill(frame(4, 0, 0)))]],
]

describe("at the gateway's port", () => {
  const port = () => Number(new URL(mesh.url).port)

  test.each(http1)("%s over HTTP/1", async (_, bytes) => {
    const { text } = await sendRaw(port(), [bytes], { until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1\.1 4\d\d /)
    expect(text).toMatch(/MALFORMED_REQUEST|METHOD_NOT_FOUND|UNAUTHENTICATED/)
    await stillServes()
  })

  test.each(http2)("%s over HTTP/2", async (_, parts) => {
    await sendRaw(port(), parts, { forMs: 150, pauseMs: 5 })
    await stillServes()
  })

  test.each(["HTTP/1.0", "HTTP/1.1"])("without Host by %s: 400", async (version) => {
    const bytes = `POST ${rpc} ${version}\r\n${json}\r\n{}`
    const { text } = await sendRaw(port(), [bytes], { until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1\.1 400 /)
  })

  test("what inflates to 200 MB is refused in little time and memory", async () => {
    const bomb = gzipSync(Buffer.alloc(200_000_000, 32))
    const before = process.memoryUsage().rss
    const start = performance.now()
    const answer = await fetch(`${mesh.url}${rpc}`, {
      method: "POST",
      headers: { ...key(), "content-type": "application/json", "content-encoding": "gzip" },
      body: bomb,
    })
    expect(await answer.text()).toContain("REQUEST_TOO_LARGE")
    expect(performance.now() - start).toBeLessThan(1_000)
    expect(process.memoryUsage().rss - before).toBeLessThan(64_000_000)
    await stillServes()
  })

  test("a NUL by REST, and the gateway lives when its deadline has passed", async () => {
    const unheard: unknown[] = []
    const hear = (reason: unknown) => unheard.push(reason)
    process.on("unhandledRejection", hear)
    const answer = await fetch(`${mesh.url}/v1/workspaces/${ours.workspaceId}/projects`, {
      method: "POST",
      headers: { ...key(), "content-type": "application/json", "connect-timeout-ms": "200" },
      body: JSON.stringify({ request_id: "x", name: "a\0b" }),
    })
    expect(answer.status).toBe(400)
    await new Promise((resolve) => setTimeout(resolve, 400))
    process.off("unhandledRejection", hear)
    expect(unheard).toEqual([])
    await stillServes()
  })
})

describe.each(serviceNames)("at the own port of %s", (name) => {
  const port = () => Number(mesh.mesh.address(name).split(":").at(-1))

  test("bytes of HTTP/1 and of HTTP/2, all at once", async () => {
    const all = [...http1.map(([, bytes]) => [bytes]), ...http2.map(([, parts]) => parts)]
    await Promise.all(all.map((parts) => sendRaw(port(), parts, { forMs: 300, pauseMs: 5 })))
    expect(await answersHealth(port())).toBe(true)
    await stillServes()
  })
})

function key(): Record<string, string> {
  return { authorization: `Bearer ${ours.admin.apiKey}` }
}

async function stillServes(): Promise<void> {
  const answer = await fetch(`${mesh.url}/ai/runs?workspace_id=${ours.workspaceId}`, {
    headers: key(),
  })
  expect(answer.status).toBe(200)
  await answer.text()
}

/** The answer of a health check that says SERVING: field 1, value 1. */
const serving = String.fromCharCode(8, 1)

/** Whether a service's port answers the health check that any orchestrator makes. */
async function answersHealth(port: number): Promise<boolean> {
  const check = fields("a", "/grpc.health.v1.Health/Check")
  const { bytes } = await sendRaw(
    port,
    [
      Buffer.concat([
        h2Hello,
        headersFrame(1, [...check, ["te", "trailers"]], false),
        frame(0, 1, 1, Buffer.alloc(5)),
      ]),
    ],
    { until: new RegExp(serving), forMs: 5_000 },
  )
  return bytes.includes(serving)
}
