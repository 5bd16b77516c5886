// Hostile, malformed and slow requests at the edge: each gets a typed answer, and the edge serves on.
import { gzipSync } from "node:zlib"
import { toBinary } from "@bufbuild/protobuf"
import { Client, credentials, Metadata } from "@grpc/grpc-js"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import {
  GetRunRequestSchema,
  type GetRunResponse,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { illegalTransition, reasonOf } from "./errors.ts"
import { fromStatus } from "./grpc-metadata.ts"
import { frame, h2Hello, headersFrame, sendRaw } from "./raw-client.ts"
import { until } from "./testing.ts"
import {
  createProbe,
  probeKey,
  probeRun,
  probeWorkspace,
  startProbeEdge,
} from "./transport-probe.ts"

const path = "/runwarden.orchestrator.v1.RunService/GetRun"
const watchPath = "/runwarden.orchestrator.v1.RunService/WatchRun"
const body = JSON.stringify({ workspaceId: probeWorkspace, runId: probeRun })
const probe = createProbe()
let edge: Awaited<ReturnType<typeof startProbeEdge>>

beforeAll(async () => {
  edge = await startProbeEdge(probe, {
    limits: {
      drainMs: 1_000,
      prefaceTimeoutMs: 400,
      headersTimeoutMs: 400,
      requestTimeoutMs: 800,
      checkIntervalMs: 50,
    },
  })
})
afterAll(() => edge[Symbol.asyncDispose]())

interface ErrorAnswer {
  readonly code: string
  readonly message: string
  readonly details: readonly { readonly type: string; readonly debug: ErrorDebug }[]
}
interface ErrorDebug {
  readonly reason?: string
  readonly metadata?: Record<string, string>
  readonly fieldViolations?: readonly { readonly field: string }[]
}

function post(content: string | Uint8Array, headers: Record<string, string> = {}) {
  return fetch(`http://127.0.0.1:${edge.port}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: probeKey, ...headers },
    body: content as string,
  })
}

async function reasonIn(response: Response): Promise<string | undefined> {
  const answer = (await response.json()) as ErrorAnswer
  expect(answer.message).not.toMatch(/runwarden\.|at .*\.ts|google\./)
  return answer.details.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug.reason
}

async function stillServes(): Promise<void> {
  const response = await post(body)
  expect(response.status).toBe(200)
  await response.json()
}

describe("requests that end an unguarded server", () => {
  const headers = `content-type: application/json\r\ncontent-length: 2\r\n`
  const h2Fields = (authority: string) =>
    [
      [":method", "POST"],
      [":scheme", "http"],
      [":path", path],
      [":authority", authority],
      ["content-type", "application/json"],
    ] as const

  test.each([
    ["HTTP/1.0 without Host", `POST ${path} HTTP/1.0\r\n${headers}\r\n{}`],
    ["HTTP/1.1 without Host", `POST ${path} HTTP/1.1\r\n${headers}\r\n{}`],
    ["Host: [", `POST ${path} HTTP/1.1\r\nHost: [\r\n${headers}\r\n{}`],
    ["Host with a space", `POST ${path} HTTP/1.1\r\nHost: a b\r\n${headers}\r\n{}`],
    ["Host with a bad port", `POST ${path} HTTP/1.1\r\nHost: a:99999\r\n${headers}\r\n{}`],
    ["absolute form", `POST http://x${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n{}`],
    ["two slashes", `POST /${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n{}`],
    ["an asterisk", `OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n`],
    ["CONNECT", `CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n`],
    ["no HTTP at all", "\x16\x03\x01\x00\x00\r\n\r\n"],
    ["headers of 64 KB", `POST ${path} HTTP/1.1\r\nHost: a\r\nx: ${"y".repeat(65_536)}\r\n\r\n`],
    ["two lengths", `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n${headers}\r\n{}`],
  ])("%s gets a typed 4xx", async (_, bytes) => {
    const { text } = await sendRaw(edge.port, [bytes], { until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1.1 4\d\d /)
    expect(text).toContain("MALFORMED_REQUEST")
    await stillServes()
  })

  test.each([["["], [""], ["a b"], ["a@b:c"]])(":authority %j over HTTP/2", async (authority) => {
    const { bytes } = await sendRaw(edge.port, [h2Hello, headersFrame(1, h2Fields(authority))])
    expect(bytes.byteLength).toBeGreaterThan(0)
    await stillServes()
  })

  test("an upgrade is answered as the plain request that it also is", async () => {
    const upgrade = `GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n`
    const { text } = await sendRaw(edge.port, [upgrade], { until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1.1 404 /)
    await stillServes()
  })

  test("2,000 mutated requests leave it alive", async () => {
    let seed = 1
    const random = (below: number) => {
      seed = (seed * 48_271) % 2_147_483_647
      return seed % below
    }
    const whole = Buffer.from(
      `POST ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n{}POST ${path} HTTP/1.1\r\n\r\n`,
    )
    const h2 = Buffer.concat([
      h2Hello,
      headersFrame(1, h2Fields("a"), false),
      frame(0, 1, 1, Buffer.from("{}")),
    ])
    const mutants = Array.from({ length: 2_000 }, (_, index) => {
      const bytes = Buffer.from(index % 2 === 0 ? whole : h2)
      for (let count = 1 + random(3); count > 0; count -= 1)
        bytes[random(bytes.length)] = random(256)
      return bytes
    })
    while (mutants.length > 0) {
      const batch = mutants.splice(0, 200)
      await Promise.all(batch.map((bytes) => sendRaw(edge.port, [bytes], { forMs: 30 })))
    }
    await stillServes()
  })
})

describe("first bytes that come slowly", () => {
  test.each([
    ["P", "OST"],
    ["PO", "ST"],
    ["PR", "OPFIND"],
    ["G", "ET"],
  ])("%s | %s is HTTP/1.1", async (first, second) => {
    const parts = [first, `${second} /x HTTP/1.1\r\nHost: a\r\n\r\n`]
    const { text } = await sendRaw(edge.port, parts, { pauseMs: 60, until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1.1 4\d\d /)
  })

  test("one byte P alone keeps nobody else waiting", async () => {
    const waiting = sendRaw(edge.port, ["P"], { forMs: 300 })
    await new Promise((proceed) => setTimeout(proceed, 50))
    await stillServes()
    await waiting
  })

  test.each([1, 2, 3, 10, 23])("a preface cut after %i bytes is HTTP/2", async (cut) => {
    const parts = [h2Hello.subarray(0, cut), h2Hello.subarray(cut)]
    const { bytes } = await sendRaw(edge.port, parts, { pauseMs: 60 })
    // The first frame that a server sends is SETTINGS.
    expect(bytes[3]).toBe(4)
  })

  test("a connection that says nothing is closed", async () => {
    const { isClosed } = await sendRaw(edge.port, [], { forMs: 2_000 })
    expect(isClosed).toBe(true)
  })

  test("a session that opens no stream is closed", async () => {
    const { isClosed } = await sendRaw(edge.port, [h2Hello], { forMs: 2_000 })
    expect(isClosed).toBe(true)
  })
})

describe("slow requests on a sniffed socket", () => {
  test("headers that do not end get 408", async () => {
    const parts = [`POST ${path} HTTP/1.1\r\n`, ...Array.from({ length: 60 }, () => "x: y\r\n")]
    const { text, isClosed } = await sendRaw(edge.port, parts, { pauseMs: 40, forMs: 3_000 })
    expect(text).toMatch(/^HTTP\/1.1 408 /)
    expect(isClosed).toBe(true)
  })

  test("a body that does not end gets an answer, and its connection ends", async () => {
    const head = `POST ${path} HTTP/1.1\r\nHost: a\r\nauthorization: ${probeKey}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n`
    const parts = [head, ...Array.from({ length: 60 }, () => " ")]
    const { text, isClosed } = await sendRaw(edge.port, parts, { pauseMs: 40, forMs: 3_000 })
    expect(text).toMatch(/^HTTP\/1.1 (408|504) /)
    expect(isClosed).toBe(true)
  })

  test("a body that does not end over HTTP/2 is answered", async () => {
    const head = headersFrame(
      1,
      [
        [":method", "POST"],
        [":scheme", "http"],
        [":path", path],
        [":authority", "a"],
        ["content-type", "application/json"],
        ["authorization", probeKey],
      ],
      false,
    )
    const parts = [
      h2Hello,
      head,
      ...Array.from({ length: 60 }, () => frame(0, 0, 1, Buffer.from(" "))),
    ]
    const { text } = await sendRaw(edge.port, parts, { pauseMs: 40, forMs: 3_000 })
    expect(text).toContain("DEADLINE_EXCEEDED")
  })
})

describe("bad input", () => {
  test.each([
    ["broken JSON", "{", "it is no valid JSON"],
    ["an empty body", "", "it is no valid JSON"],
    ["an unknown field", `{"foo":1}`, `unknown field "foo"`],
    ["a wrong type", `{"runId":5}`, `field "run_id" has a wrong value: expected string, got 5`],
    ["a NUL", `{"runId":"a\\u0000b"}`, `field "run_id" holds a NUL character`],
    ["a rounded number", `{"runId":9007199254740993}`, `field "runId" holds a number`],
    ["1e400", `{"runId":1e400}`, `field "runId" holds a number`],
    ["deep nesting", `{"runId":${"[".repeat(10_000)}`, "it is no valid JSON"],
    ["an array", "[]", "it is no valid JSON for this method"],
  ])("%s names what is wrong", async (_, content, cause) => {
    const response = await post(content)
    expect(response.status).toBe(400)
    const answer = (await response.json()) as ErrorAnswer
    const info = answer.details.find((detail) => detail.type === "google.rpc.ErrorInfo")
    expect(info?.debug.reason).toBe("MALFORMED_REQUEST")
    expect(info?.debug.metadata?.cause).toContain(cause)
    expect(JSON.stringify(answer)).not.toMatch(/runwarden\.orchestrator/)
  })

  test("bytes that are no UTF-8", async () => {
    const response = await post(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))
    expect(await reasonIn(response)).toBe("MALFORMED_REQUEST")
  })

  test("a Protobuf that is none", async () => {
    const response = await post(Buffer.from([0x0a, 0xff]), { "content-type": "application/proto" })
    expect(response.status).toBe(400)
    expect(await reasonIn(response)).toBe("MALFORMED_REQUEST")
  })

  test.each([
    ["a content type", { "content-type": "text/plain" }, 415],
    ["a compression", { "content-encoding": "br" }, 501],
    ["a timeout", { "connect-timeout-ms": "-5" }, 400],
    ["a timeout of 115 days", { "connect-timeout-ms": "9999999999" }, 400],
  ])("%s that is not supported", async (_, headers, status) => {
    const response = await post(body, headers)
    expect(response.status).toBe(status)
    expect(await reasonIn(response)).toBe("MALFORMED_REQUEST")
  })

  test("a method that is not POST", async () => {
    const url = `http://127.0.0.1:${edge.port}${path}?encoding=json&message=%7B%7D&connect=v1`
    const response = await fetch(url, { headers: { authorization: probeKey } })
    expect(response.status).toBe(405)
    expect(response.headers.get("allow")).toBe("POST")
    expect(await reasonIn(response)).toBe("MALFORMED_REQUEST")
  })

  test("a path that is not served", async () => {
    const response = await fetch(`http://127.0.0.1:${edge.port}/x.Y/Z`, { method: "POST" })
    expect(response.status).toBe(404)
    expect(await reasonIn(response)).toBe("METHOD_NOT_FOUND")
  })

  test("too large, plain and inflated, in little time and memory", async () => {
    const before = process.memoryUsage().rss
    const start = performance.now()
    const plain = await post(" ".repeat(300_000))
    expect([plain.status, await reasonIn(plain)]).toEqual([429, "REQUEST_TOO_LARGE"])
    const bomb = gzipSync(Buffer.alloc(100_000_000, 32))
    const packed = performance.now()
    const inflated = await post(bomb, { "content-encoding": "gzip" })
    expect([inflated.status, await reasonIn(inflated)]).toEqual([429, "REQUEST_TOO_LARGE"])
    expect(performance.now() - packed).toBeLessThan(1_000)
    expect(performance.now() - start).toBeLessThan(10_000)
    // The bomb itself was made here: 100 MB of it, more than half of which stays resident.
    expect(process.memoryUsage().rss - before).toBeLessThan(250_000_000)
  })

  test("no key: refused on the headers, before broken bytes are looked at", async () => {
    const response = await post("{broken", { authorization: "Bearer wrong" })
    expect(response.status).toBe(401)
    expect(await reasonIn(response)).toBe("UNAUTHENTICATED")
  })

  test("no key: not one byte of the body is waited for", async () => {
    const head = `POST ${path} HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n`
    const { text } = await sendRaw(edge.port, [head], { until: /"debug"/ })
    expect(text).toMatch(/^HTTP\/1.1 401 /)
  })

  test("headers of the mesh do not pass", async () => {
    let header: string | null = "unset"
    probe.getRun = (_, context) => {
      header = context.requestHeader.get("runwarden-identity")
      return {}
    }
    await post(body, { "runwarden-identity": "forged" })
    expect(header).toBeNull()
    probe.getRun = createProbe().getRun
  })

  test("a handler that hangs is answered at the deadline, with a reason", async () => {
    probe.getRun = () => new Promise<never>(() => undefined)
    const response = await post(body, { "connect-timeout-ms": "100" })
    expect(response.status).toBe(504)
    expect(await reasonIn(response)).toBe("DEADLINE_EXCEEDED")
    probe.getRun = createProbe().getRun
  })

  test.each(["application/grpc", "application/grpc-web+proto", "application/connect+json"])(
    "%s says the reason of a message that cannot be read",
    async (type) => {
      const framed = Buffer.from([0, 0, 0, 0, 2, 0x0a, 0xff])
      const url = `http://127.0.0.1:${edge.port}${type.includes("connect") ? watchPath : path}`
      const headers = { "content-type": type, authorization: probeKey }
      const response = await fetch(url, { method: "POST", headers, body: framed })
      const text = await response.text()
      if (type === "application/grpc") return
      expect(text).toMatch(/grpc-status: 3|"invalid_argument"/)
      expect(text).not.toMatch(/parse binary|runwarden\.orchestrator/)
    },
  )
})

describe("a plain grpc-js client", () => {
  const client = () => new Client(`127.0.0.1:${edge.port}`, credentials.createInsecure())
  const bytes = Buffer.from(
    toBinary(GetRunRequestSchema, {
      $typeName: "runwarden.orchestrator.v1.GetRunRequest",
      workspaceId: probeWorkspace,
      runId: probeRun,
    }),
  )

  function call(content: Buffer, key = probeKey): Promise<unknown> {
    const metadata = new Metadata()
    metadata.set("authorization", key)
    const grpc = client()
    return new Promise((resolve, reject) => {
      grpc.makeUnaryRequest(
        path,
        (x: Buffer) => x,
        (x: Buffer) => x,
        content,
        metadata,
        (error, answer) => {
          grpc.close()
          if (error === null) resolve(answer)
          else reject(fromStatus(error))
        },
      )
    })
  }

  test("is answered", async () => {
    expect(await call(bytes)).toBeInstanceOf(Buffer)
  })

  test("reads the reason of a handler's error", async () => {
    probe.getRun = () => {
      throw illegalTransition("run", "failed", "running", [])
    }
    const error = await call(bytes).catch((caught: unknown) => caught)
    probe.getRun = createProbe().getRun
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
  })

  test.each([
    ["bytes that are no message", Buffer.from([0x0a, 0xff]), probeKey, "MALFORMED_REQUEST"],
    ["a message that is too large", Buffer.alloc(300_000, 10), probeKey, "REQUEST_TOO_LARGE"],
    ["no key", bytes, "Bearer wrong", "UNAUTHENTICATED"],
  ])("reads the reason of %s", async (_, content, key, reason) => {
    const error = await call(content, key).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe(reason)
  })
})

test("drains: what is under way finishes, streams are told, new connections are refused", async () => {
  const own = createProbe()
  const release = Promise.withResolvers<void>()
  let isRunning = false
  own.getRun = async () => {
    isRunning = true
    await release.promise
    return {}
  }
  const server = await startProbeEdge(own)
  const url = `http://127.0.0.1:${server.port}`
  const headers = { "content-type": "application/json", authorization: probeKey }
  const running = fetch(`${url}${path}`, { method: "POST", headers, body })
  await until(() => isRunning)
  const closed = server[Symbol.asyncDispose]()
  await expect(fetch(`${url}${path}`, { method: "POST", headers, body })).rejects.toThrow()
  release.resolve()
  expect((await running).status).toBe(200)
  const start = performance.now()
  await closed
  expect(performance.now() - start).toBeLessThan(2_000)
})

test("a drain that takes too long is forced", async () => {
  const own = createProbe()
  let signal: AbortSignal | undefined
  own.getRun = (_, context) => {
    signal = context.signal
    return new Promise<GetRunResponse>(() => undefined)
  }
  const server = await startProbeEdge(own, { limits: { drainMs: 200 } })
  const headers = { "content-type": "application/json", authorization: probeKey }
  const running = fetch(`http://127.0.0.1:${server.port}${path}`, { method: "POST", headers, body })
  running.catch(() => undefined)
  await until(() => signal)
  const start = performance.now()
  await server[Symbol.asyncDispose]()
  expect(performance.now() - start).toBeLessThan(1_500)
  await until(() => signal?.aborted)
})
