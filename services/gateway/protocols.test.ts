import { setTimeout as sleep } from "node:timers/promises"
import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import * as grpc from "@grpc/grpc-js"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts"
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts"
import { PolicyDenialSchema } from "../../gen/runwarden/errors/v1/policy_denial_pb.ts"
import {
  GetWorkspaceRequestSchema,
  GetWorkspaceResponseSchema,
} from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import {
  RunService,
  WatchRunRequestSchema,
  WatchRunResponseSchema,
} from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { createLocalTransport } from "../../mesh/local-transport.ts"
import { type Handlers, route } from "../../mesh/service.ts"
import { testRuntime, until } from "../../mesh/testing.ts"
import {
  errorInfo,
  openStream,
  startGateway,
  type TestGateway,
  type TestWorkspace,
} from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let plain: grpc.Client

beforeAll(async () => {
  gateway = await startGateway({ membershipCacheMs: 200 })
  ours = await gateway.addWorkspace()
  plain = new grpc.Client(new URL(gateway.url).host, grpc.credentials.createInsecure())
})
afterAll(async () => {
  plain.close()
  await gateway[Symbol.asyncDispose]()
})
beforeEach(() => {
  gateway.calls.length = 0
  gateway.script.transports = {}
  delete gateway.script.unary
  delete gateway.script.stream
})

const getWorkspace = "/runwarden.gateway.v1.WorkspaceService/GetWorkspace"
const watchRun = "/runwarden.orchestrator.v1.RunService/WatchRun"
const decision = { decisionId: newId(), verdict: "blocked", policyVersion: "default@1" }

function metadata(key: string): grpc.Metadata {
  const found = new grpc.Metadata()
  found.set("authorization", `Bearer ${key}`)
  return found
}

function grpcCall(path: string, request: Uint8Array, key: string): Promise<Uint8Array> {
  const bytes = (value: Uint8Array) => Buffer.from(value)
  return new Promise((resolve, reject) => {
    plain.makeUnaryRequest(
      path,
      bytes,
      (found) => found,
      request,
      metadata(key),
      { deadline: Date.now() + 5_000 },
      (error, answer) => (error === null && answer ? resolve(answer) : reject(error)),
    )
  })
}

/** A RunService that fails in a typed way, behind the whole chain of the mesh. */
function deny(): void {
  const refuse = () => {
    throw new RunwardenError(
      "POLICY_DENIED",
      { decision_id: decision.decisionId, policy_version: "default@1" },
      { policyDenial: decision, retryAfterMs: 1_500 },
    )
  }
  const implementation = Object.fromEntries(
    RunService.methods.map(({ localName }) => [localName, refuse]),
  ) as unknown as Handlers<typeof RunService>
  const target = {
    routes: [route(RunService, implementation)],
    runtime: testRuntime("orchestrator"),
  }
  gateway.script.transports = { orchestrator: createLocalTransport(target, gateway.runtime) }
}

describe("one call over every protocol", () => {
  const request = () => create(GetWorkspaceRequestSchema, { workspaceId: ours.workspaceId })

  test("Connect with JSON and with binary, REST", async () => {
    const body = { workspaceId: ours.workspaceId }
    const json = await gateway.call(getWorkspace, { key: ours.keys.viewer, body })
    const rest = await gateway.call(`/v1/workspaces/${ours.workspaceId}`, { key: ours.keys.viewer })
    expect([json.status, rest.status]).toEqual([200, 200])
    expect(json.json).toEqual(rest.json)
    const response = await fetch(`${gateway.url}${getWorkspace}`, {
      method: "POST",
      headers: { "content-type": "application/proto", "x-api-key": ours.keys.viewer },
      body: toBinary(GetWorkspaceRequestSchema, request()),
    })
    const answer = fromBinary(
      GetWorkspaceResponseSchema,
      new Uint8Array(await response.arrayBuffer()),
    )
    expect(answer.workspace?.workspaceId).toBe(ours.workspaceId)
  })

  test("gRPC by a client that knows nothing of Connect", async () => {
    const bytes = toBinary(GetWorkspaceRequestSchema, request())
    const answer = await grpcCall(getWorkspace, bytes, ours.keys.viewer)
    expect(fromBinary(GetWorkspaceResponseSchema, answer).workspace?.displayName).toBe("Test")
  })

  test("gRPC-Web", async () => {
    const message = toBinary(GetWorkspaceRequestSchema, request())
    const head = Buffer.alloc(5)
    head.writeUInt32BE(message.byteLength, 1)
    const response = await fetch(`${gateway.url}${getWorkspace}`, {
      method: "POST",
      headers: {
        "content-type": "application/grpc-web+proto",
        authorization: `Bearer ${ours.keys.viewer}`,
      },
      body: Buffer.concat([head, message]),
    })
    const bytes = Buffer.from(await response.arrayBuffer())
    const answer = fromBinary(
      GetWorkspaceResponseSchema,
      bytes.subarray(5, 5 + bytes.readUInt32BE(1)),
    )
    expect(answer.workspace?.workspaceId).toBe(ours.workspaceId)
    expect(bytes.toString("latin1")).toMatch(/grpc-status: 0/)
  })
})

describe("errors", () => {
  test("of an upstream pass through with their details, over Connect, REST and gRPC", async () => {
    deny()
    const { workspaceId } = ours
    const runId = newId()
    const over = {
      connect: await gateway.call("/runwarden.orchestrator.v1.RunService/GetRun", {
        key: ours.keys.viewer,
        body: { workspaceId, runId },
      }),
      rest: await gateway.call(`/v1/workspaces/${workspaceId}/runs/${runId}`, {
        key: ours.keys.viewer,
      }),
    }
    for (const answer of Object.values(over)) {
      expect(answer.status).toBe(403)
      expect(answer.json.code).toBe("permission_denied")
      expect(errorInfo(answer)).toMatchObject({
        reason: "POLICY_DENIED",
        metadata: { decision_id: decision.decisionId },
      })
      expect(answer.text).toContain('"verdict":"blocked"')
      expect(answer.text).toContain("google.rpc.RetryInfo")
    }
    const path = "/runwarden.orchestrator.v1.RunService/GetRun"
    const bytes = toBinary(
      WatchRunRequestSchema,
      create(WatchRunRequestSchema, { workspaceId, runId }),
    )
    const failed = await grpcCall(path, bytes, ours.keys.viewer).then(
      () => undefined,
      (error: grpc.ServiceError) => error,
    )
    expect(failed?.code).toBe(grpc.status.PERMISSION_DENIED)
    const details = failed?.metadata.get("grpc-status-details-bin")[0]
    const status = fromBinary(StatusSchema, details as Buffer)
    const info = status.details.find(({ typeUrl }) => typeUrl.endsWith("ErrorInfo"))
    expect(fromBinary(ErrorInfoSchema, info?.value ?? new Uint8Array()).reason).toBe(
      "POLICY_DENIED",
    )
    const denial = status.details.find(({ typeUrl }) => typeUrl.endsWith("PolicyDenial"))
    expect(fromBinary(PolicyDenialSchema, denial?.value ?? new Uint8Array())).toMatchObject(
      decision,
    )
  })

  test("of a mesh that does not trust its gateway are not put to the client", async () => {
    const path = `/v1/workspaces/${ours.workspaceId}/runs`
    for (const reason of ["UNAUTHENTICATED", "CALLER_NOT_ALLOWED", "WORKSPACE_MISMATCH"] as const) {
      gateway.script.unary = () => Promise.reject(new RunwardenError(reason))
      const answer = await gateway.call(path, { key: ours.keys.viewer })
      expect([answer.status, errorInfo(answer)?.reason]).toEqual([500, "INTERNAL"])
    }
  })

  test("of a broken upstream say nothing, and one that is away is UNAVAILABLE", async () => {
    const path = `/v1/workspaces/${ours.workspaceId}/runs`
    gateway.script.unary = () => Promise.reject(new Error("password=hunter2"))
    const broken = await gateway.call(path, { key: ours.keys.viewer })
    expect([broken.status, errorInfo(broken)?.reason]).toEqual([500, "INTERNAL"])
    expect(broken.text).not.toContain("hunter2")
    gateway.script.unary = () =>
      Promise.reject(new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "orchestrator" }))
    const away = await gateway.call(path, { key: ours.keys.viewer })
    expect([away.status, errorInfo(away)?.reason]).toEqual([503, "DEPENDENCY_UNAVAILABLE"])
  })

  test("over gRPC: unknown, internal and unauthenticated have the codes of gRPC", async () => {
    const internal = "/runwarden.gateway.v1.MembershipService/CheckMembership"
    const codes = await Promise.all(
      [
        [internal, ours.keys.admin],
        [`${internal}X`, ours.keys.admin],
        ["/no.such.Service/Method", ours.keys.admin],
        [getWorkspace, "rw_no_key"],
      ].map(([path = "", key = ""]) =>
        grpcCall(path, new Uint8Array(), key).then(
          () => 0,
          (error: grpc.ServiceError) => error.code,
        ),
      ),
    )
    const { UNIMPLEMENTED, UNAUTHENTICATED } = grpc.status
    expect(codes).toEqual([UNIMPLEMENTED, UNIMPLEMENTED, UNIMPLEMENTED, UNAUTHENTICATED])
  })
})

describe("deadlines", () => {
  test("go on less the reserve, by the header of each protocol, and a hang is answered", async () => {
    const { workspaceId } = ours
    const path = `/v1/workspaces/${workspaceId}/runs`
    gateway.script.unary = () => new Promise<object>(() => undefined)
    const headers = { "connect-timeout-ms": "300" }
    const startedAt = Date.now()
    const rest = await gateway.call(path, { key: ours.keys.viewer, headers })
    expect([rest.status, errorInfo(rest)?.reason]).toEqual([504, "DEADLINE_EXCEEDED"])
    expect(Date.now() - startedAt).toBeLessThan(1_500)
    const connect = await gateway.call("/runwarden.orchestrator.v1.RunService/ListRuns", {
      key: ours.keys.viewer,
      body: { workspaceId },
      headers,
    })
    expect(errorInfo(connect)?.reason).toBe("DEADLINE_EXCEEDED")
    for (const { timeoutMs } of gateway.calls) {
      expect(timeoutMs).toBeGreaterThan(100)
      expect(timeoutMs).toBeLessThanOrEqual(250)
    }
    expect(gateway.calls).toHaveLength(2)
  })
})

describe("streams", () => {
  const event = (position: number) => ({ event: { sequence: BigInt(position) } })

  /** Sends an event every 20 ms until it is told to stop. */
  function endless(): void {
    gateway.script.stream = async function* (_, { signal }) {
      for (let position = 1; signal?.aborted !== true; position++) {
        yield event(position)
        await sleep(20)
      }
    }
  }

  function request(key = ours.keys.viewer) {
    const body = { workspaceId: ours.workspaceId, runId: newId() }
    return { body, rest: `/v1/workspaces/${ours.workspaceId}/runs/${body.runId}:watch`, key }
  }

  test("end to end over Connect, and a reader that leaves cancels the upstream", async () => {
    endless()
    const { body, key } = request()
    const left = new AbortController()
    let count = 0
    const read = async () => {
      for await (const _ of openStream(`${gateway.url}${watchRun}`, key, body, left.signal)) {
        count += 1
        if (count === 3) left.abort()
      }
    }
    await expect(read()).rejects.toThrow()
    await until(() => gateway.calls[0]?.signal?.aborted === true)
  })

  test("over gRPC, cancelled by the client", async () => {
    endless()
    const { body, key } = request()
    const stream = plain.makeServerStreamRequest(
      watchRun,
      (value: Uint8Array) => Buffer.from(value),
      (bytes) => fromBinary(WatchRunResponseSchema, bytes),
      toBinary(WatchRunRequestSchema, create(WatchRunRequestSchema, body)),
      metadata(key),
    )
    const ended = new Promise<number>((resolve) =>
      stream.on("error", (error: grpc.ServiceError) => resolve(error.code)),
    )
    stream.once("data", () => stream.cancel())
    expect(await ended).toBe(grpc.status.CANCELLED)
    await until(() => gateway.calls[0]?.signal?.aborted === true)
  })

  test("end with the key: a revoked one is not served on", async () => {
    endless()
    const { workspaceId, actors } = ours
    const admin = { key: ours.keys.admin }
    const made = await gateway.call(`/v1/workspaces/${workspaceId}/api-keys`, {
      ...admin,
      body: { requestId: newId(), actorId: actors.viewer, displayName: "stream" },
    })
    const { body } = request()
    const frames: unknown[] = []
    for await (const frame of openStream(
      `${gateway.url}${watchRun}`,
      String(made.json.secret),
      body,
    )) {
      frames.push(frame.json)
      if (frames.length !== 2) continue
      const { keyId } = made.json.apiKey as { keyId: string }
      const path = `/v1/workspaces/${workspaceId}/api-keys/${keyId}:revoke`
      await gateway.call(path, { ...admin, body: { requestId: newId() } })
    }
    expect(frames.at(-1)).toMatchObject({ error: { code: "unauthenticated" } })
    await until(() => gateway.calls[0]?.signal?.aborted === true)
  })

  test("over REST as lines and as events, an error being the last of them", async () => {
    gateway.script.stream = async function* () {
      yield event(1)
      throw new RunwardenError("LEASE_LOST", { run_id: "x" })
    }
    const { rest, key } = request()
    const lines = await gateway.call(rest, { key })
    expect(lines.headers.get("content-type")).toBe("application/x-ndjson")
    const [first, last] = lines.text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as object)
    expect(first).toMatchObject({ result: { event: { sequence: "1" } } })
    expect(last).toMatchObject({ error: { code: "aborted" } })
    const events = await gateway.call(rest, { key, headers: { accept: "text/event-stream" } })
    expect(events.headers.get("content-type")).toBe("text/event-stream")
    expect(events.text).toMatch(
      /^event: message\ndata: \{"event":.*\n\nevent: error\ndata: \{"code"/s,
    )
  })

  test("over REST, an error before the first message is an answer of its own", async () => {
    gateway.script.stream = () => {
      throw new RunwardenError("NOT_FOUND", { resource: "run", id: "x" })
    }
    const { rest, key } = request()
    const answer = await gateway.call(rest, { key })
    expect([answer.status, errorInfo(answer)?.reason]).toEqual([404, "NOT_FOUND"])
  })

  test("over REST, headers come before the first message, and leaving cancels", async () => {
    gateway.script.stream = async function* (_, { signal }) {
      await new Promise((resolve) => signal?.addEventListener("abort", resolve))
      yield event(1)
    }
    const { rest, key } = request()
    const left = new AbortController()
    const response = await fetch(`${gateway.url}${rest}`, {
      headers: { authorization: `Bearer ${key}` },
      signal: left.signal,
    })
    expect(response.status).toBe(200)
    left.abort()
    await until(() => gateway.calls[0]?.signal?.aborted === true)
  })
})
