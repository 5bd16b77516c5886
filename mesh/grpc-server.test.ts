// The gRPC port by itself: who may call, what plain clients read, hostile bytes, health and drain.
import { sign } from "node:crypto"
import { fromBinary, toBinary } from "@bufbuild/protobuf"
import { Code } from "@connectrpc/connect"
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js"
import { SignJWT } from "jose"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import {
  HealthCheckRequestSchema,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from "../gen/grpc/health/v1/health_pb.ts"
import {
  GetRunRequestSchema,
  type GetRunResponse,
  RunService,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createMeshClient } from "./client.ts"
import { illegalTransition, metadataOf, RunwardenError, reasonOf } from "./errors.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { fromStatus } from "./grpc-metadata.ts"
import { createGrpcServer } from "./grpc-server.ts"
import { actingAs, identityHeader } from "./identity.ts"
import { frame, h2Hello, headersFrame, sendRaw } from "./raw-client.ts"
import { testKeys, testRuntime, until } from "./testing.ts"
import {
  createProbe,
  probeRun,
  probeSubject,
  probeWorkspace,
  startProbeGrpc,
} from "./transport-probe.ts"

const path = "/runwarden.orchestrator.v1.RunService/GetRun"
const message = { workspaceId: probeWorkspace, runId: probeRun }
const bytes = Buffer.from(
  toBinary(GetRunRequestSchema, {
    $typeName: "runwarden.orchestrator.v1.GetRunRequest",
    ...message,
  }),
)
const probe = createProbe()
let server: Awaited<ReturnType<typeof startProbeGrpc>>
let plain: Client

beforeAll(async () => {
  server = await startProbeGrpc(probe, { drainMs: 1_000 })
  plain = new Client(`127.0.0.1:${server.port}`, credentials.createInsecure())
})
afterAll(async () => {
  plain.close()
  await server[Symbol.asyncDispose]()
})

const pass = (content: Buffer) => content

function call(content: Buffer, token?: string | readonly string[], method = path): Promise<Buffer> {
  const metadata = new Metadata()
  for (const value of [token ?? []].flat()) metadata.add(identityHeader, value)
  return new Promise((resolve, reject) => {
    plain.makeUnaryRequest(method, pass, pass, content, metadata, (error, answer) => {
      if (error === null) resolve(answer ?? Buffer.alloc(0))
      else reject(fromStatus(error))
    })
  })
}

const token = () => testRuntime("gateway").signer.sign(probeSubject, "orchestrator")
const caught = (promise: Promise<unknown>) => promise.catch((error: unknown) => error)

describe("a plain grpc-js client", () => {
  test("is answered with a token", async () => {
    expect((await call(bytes, await token())).byteLength).toBeGreaterThan(0)
  })

  test("reads ErrorInfo of a handler's error", async () => {
    probe.getRun = () => {
      throw illegalTransition("run", "failed", "running", ["queued"])
    }
    const error = await caught(call(bytes, await token()))
    probe.getRun = createProbe().getRun
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toMatchObject({ current: "failed", allowed: "queued" })
  })

  test.each([
    ["bytes that are no message", Buffer.from([0x0a, 0xff]), "MALFORMED_REQUEST"],
    ["a message above the limit", Buffer.alloc(262_145, 10), "REQUEST_TOO_LARGE"],
  ])("reads the reason of %s", async (_, content, reason) => {
    expect(reasonOf(await caught(call(content, await token())))).toBe(reason)
  })

  test("reads the reason of a deadline that passed", async () => {
    let signal: AbortSignal | undefined
    probe.getRun = (_, context) => {
      signal = context.signal
      return new Promise<GetRunResponse>(() => undefined)
    }
    const metadata = new Metadata()
    metadata.set(identityHeader, await token())
    metadata.set("grpc-timeout", "100m")
    const error = await new Promise<StatusObject | null>((resolve) => {
      plain.makeUnaryRequest(path, pass, pass, bytes, metadata, (failed) => resolve(failed))
    })
    probe.getRun = createProbe().getRun
    expect(error && reasonOf(fromStatus(error))).toBe("DEADLINE_EXCEEDED")
    await until(() => signal?.aborted)
  })
})

describe("identity at the port", () => {
  const now = () => Math.floor(Date.now() / 1000)
  const key = (name: "gateway" | "tools") => {
    const found = testKeys.private.get(name)
    if (found === undefined) throw new Error("no key")
    return found
  }
  const claims = { ws: probeWorkspace, kind: "member", role: 2 }
  const header = { alg: "EdDSA", typ: "runwarden-hop+jwt" }
  const jwt = (audience: string, issuer: string, issuedAt: number, lifeS = 60) =>
    new SignJWT(claims)
      .setProtectedHeader(header)
      .setIssuer(issuer)
      .setAudience(audience)
      .setSubject("actor")
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + lifeS)
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url")
  const payload = () =>
    encode({
      ...claims,
      iss: "gateway",
      aud: "orchestrator",
      sub: "actor",
      iat: now(),
      exp: now() + 60,
    })
  const none = () => `${encode({ alg: "none", typ: header.typ })}.${payload()}.`
  const embedded = () => {
    const head = encode({ ...header, jwk: key("tools").export({ format: "jwk" }) })
    const input = `${head}.${payload()}`
    return `${input}.${sign(null, Buffer.from(input), key("tools")).toString("base64url")}`
  }

  test.each<[string, () => Promise<string | readonly string[] | undefined>]>([
    ["none", async () => undefined],
    ["an empty one", async () => ""],
    ["no token at all", async () => "Bearer x"],
    ["an expired one", () => jwt("orchestrator", "gateway", now() - 3_600).sign(key("gateway"))],
    ["one from the future", () => jwt("orchestrator", "gateway", now() + 600).sign(key("gateway"))],
    [
      "one of a long life",
      () => jwt("orchestrator", "gateway", now() - 300, 3_600).sign(key("gateway")),
    ],
    ["one for another service", () => jwt("tools", "gateway", now()).sign(key("gateway"))],
    ["one of an unknown issuer", () => jwt("orchestrator", "mallory", now()).sign(key("gateway"))],
    [
      "one signed by another service",
      () => jwt("orchestrator", "gateway", now()).sign(key("tools")),
    ],
    ["alg none", async () => none()],
    ["one that brings its own key", async () => embedded()],
    ["two at once", async () => [await token(), await token()]],
  ])("%s is refused before the body is read", async (_, make) => {
    let isCalled = false
    probe.getRun = () => {
      isCalled = true
      return {}
    }
    // A body that would be refused as malformed if anybody looked at it.
    const error = await caught(call(Buffer.from([0x0a, 0xff]), await make()))
    probe.getRun = createProbe().getRun
    expect(reasonOf(error)).toBe("UNAUTHENTICATED")
    expect(isCalled).toBe(false)
  })

  test("no body is waited for", async () => {
    const fields = [
      [":method", "POST"],
      [":scheme", "http"],
      [":path", path],
      [":authority", "a"],
      ["content-type", "application/grpc"],
      ["te", "trailers"],
    ] as const
    const { text } = await sendRaw(server.port, [h2Hello, headersFrame(1, fields, false)], {
      until: /grpc-status/,
    })
    expect(text.length).toBeGreaterThan(0)
  })
})

describe("hostile bytes", () => {
  const fields = (authority: string, where = path) =>
    [
      [":method", "POST"],
      [":scheme", "http"],
      [":path", where],
      [":authority", authority],
      ["content-type", "application/grpc"],
    ] as const

  test.each<[string, readonly (string | Uint8Array)[]]>([
    ["HTTP/1.0 without Host", [`POST ${path} HTTP/1.0\r\n\r\n{}`]],
    ["Host: [", [`POST ${path} HTTP/1.1\r\nHost: [\r\n\r\n`]],
    ["CONNECT", ["CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"]],
    ["P alone", ["P"]],
    ["P | RI", [h2Hello.subarray(0, 1), h2Hello.subarray(1)]],
    ["P | OST", ["P", `OST ${path} HTTP/1.1\r\nHost: a\r\n\r\n`]],
    [":authority [", [h2Hello, headersFrame(1, fields("["))]],
    ["a path that is not ASCII", [h2Hello, headersFrame(1, fields("a", "/\xe9\xff"))]],
    ["a path of 30 KB", [h2Hello, headersFrame(1, fields("a", `/${"x".repeat(30_000)}`))]],
    [
      "a header no grpc-js key may have",
      [h2Hello, headersFrame(1, [...fields("a"), ["x!y", "1"]])],
    ],
    ["broken base64 in -bin", [h2Hello, headersFrame(1, [...fields("a"), ["x-bin", "%%"]])]],
    ["a timeout that is none", [h2Hello, headersFrame(1, [...fields("a"), ["grpc-timeout", "x"]])]],
    [
      "a length of 4 GB",
      [
        h2Hello,
        headersFrame(1, fields("a"), false),
        frame(0, 1, 1, Buffer.from([0, 255, 255, 255, 255])),
      ],
    ],
    ["a frame of an unknown type", [h2Hello, frame(200, 255, 7, Buffer.alloc(100))]],
    ["DATA on a stream that is not open", [h2Hello, frame(0, 1, 9, Buffer.alloc(10))]],
    [
      "1,000 resets",
      [
        h2Hello,
        Buffer.concat(
          Array.from({ length: 1_000 }, (_, i) =>
            Buffer.concat([
              headersFrame(2 * i + 1, fields("a"), false),
              frame(3, 0, 2 * i + 1, Buffer.alloc(4)),
            ]),
          ),
        ),
      ],
    ],
  ])("%s leaves the port alive", async (_, parts) => {
    await sendRaw(server.port, parts, { forMs: 150 })
    expect((await call(bytes, await token())).byteLength).toBeGreaterThan(0)
  })
})

test("health is told without a token, NOT_SERVING to those who watch once it drains", async () => {
  const own = createGrpcServer(
    { routes: [createProbe().route], runtime: testRuntime("orchestrator") },
    { listen: "127.0.0.1:0", drainMs: 500 },
  )
  const { port } = await own.start()
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
  const ask = Buffer.from(
    toBinary(HealthCheckRequestSchema, {
      $typeName: "grpc.health.v1.HealthCheckRequest",
      service: RunService.typeName,
    }),
  )
  const seen: number[] = []
  const watch = client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", pass, pass, ask)
  watch.on("data", (content) => seen.push(fromBinary(HealthCheckResponseSchema, content).status))
  watch.on("error", () => undefined)
  await until(() => seen.length)
  const checked = await new Promise<Buffer>((resolve, reject) => {
    client.makeUnaryRequest("/grpc.health.v1.Health/Check", pass, pass, ask, (error, answer) =>
      error === null && answer !== undefined ? resolve(answer) : reject(error),
    )
  })
  expect(fromBinary(HealthCheckResponseSchema, checked).status).toBe(Status.SERVING)
  own.health.setServing(false)
  await until(() => seen.length > 1)
  expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING])
  await own[Symbol.asyncDispose]()
  client.close()
})

describe("drain", () => {
  test("finishes unary calls and tells streams", async () => {
    const own = createProbe()
    const release = Promise.withResolvers<void>()
    let started = 0
    own.getRun = async () => {
      started += 1
      await release.promise
      return {}
    }
    own.watchRun = async function* () {
      started += 1
      yield {}
      await new Promise(() => undefined)
    }
    const target = await startProbeGrpc(own, { drainMs: 5_000 })
    await using transport = createGrpcTransport(
      `127.0.0.1:${target.port}`,
      testRuntime("gateway"),
      "orchestrator",
    )
    const client = createMeshClient(RunService, transport)
    const unary = client.getRun(message, actingAs(probeSubject))
    const watching = caught(
      (async () => {
        for await (const _ of client.watchRun(message, actingAs(probeSubject, { timeoutMs: 0 })));
      })(),
    )
    await until(() => started === 2)
    const start = performance.now()
    const closed = target[Symbol.asyncDispose]()
    expect(reasonOf(await watching)).toBe("SHUTTING_DOWN")
    release.resolve()
    await unary
    await closed
    expect(performance.now() - start).toBeLessThan(3_000)
  })

  test("is forced when a handler does not end", async () => {
    const own = createProbe()
    let isStarted = false
    own.getRun = () => {
      isStarted = true
      return new Promise<GetRunResponse>(() => undefined)
    }
    const target = await startProbeGrpc(own, { drainMs: 200 })
    await using transport = createGrpcTransport(
      `127.0.0.1:${target.port}`,
      testRuntime("gateway"),
      "orchestrator",
    )
    const call = caught(
      createMeshClient(RunService, transport).getRun(message, actingAs(probeSubject)),
    )
    await until(() => isStarted)
    await target[Symbol.asyncDispose]()
    expect(reasonOf(await call)).toMatch(/CANCELLED|DEPENDENCY_UNAVAILABLE/)
  })
})

describe("retries", () => {
  async function attempts(method: "getRun" | "startRun"): Promise<number> {
    const own = createProbe()
    let count = 0
    own.getRun = () => {
      count += 1
      throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "x" })
    }
    await using target = await startProbeGrpc(own, { drainMs: 200 })
    await using transport = createGrpcTransport(
      `127.0.0.1:${target.port}`,
      testRuntime("gateway"),
      "orchestrator",
    )
    const once = { ...RunService.method.getRun, idempotency: 0 } as typeof RunService.method.getRun
    const error = await caught(
      transport.unary(
        method === "getRun" ? RunService.method.getRun : once,
        undefined,
        5_000,
        undefined,
        message,
        actingAs(probeSubject).contextValues,
      ),
    )
    expect(error).toMatchObject({ code: Code.Unavailable })
    return count
  }

  test("a read is tried three times while the peer is unavailable", async () => {
    expect(await attempts("getRun")).toBe(3)
  })

  test("a method that is not declared repeatable is tried once", async () => {
    expect(await attempts("startRun")).toBe(1)
  })
})
