// Unary calls that travel together over a socket: what each keeps for itself, and what becomes of
// them when their batch breaks.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf"
import { Code, type ConnectError, type HandlerContext } from "@connectrpc/connect"
import {
  Client,
  type ClientReadableStream,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type StatusObject,
} from "@grpc/grpc-js"
import type { Tracer } from "@opentelemetry/api"
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import {
  type ExecuteRequest,
  ExecuteRequestSchema,
  type ExecuteResponse,
} from "../gen/runwarden/tools/v1/execute_pb.ts"
import { ExecutionService } from "../gen/runwarden/tools/v1/execution_service_pb.ts"
import { type BatchResult, decodeBatchResponse, encodeBatchRequest } from "./batch-wire.ts"
import { createMeshClient } from "./client.ts"
import { illegalTransition, metadataOf, RunwardenError, reasonOf } from "./errors.ts"
import { tcpProxy } from "./fixtures/tcp-proxy.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { fromStatus, fromStatusBytes } from "./grpc-metadata.ts"
import { createGrpcServer } from "./grpc-server.ts"
import {
  actingAs,
  callerOf,
  identityHeader,
  memberSubject,
  type Subject,
  serviceSubject,
} from "./identity.ts"
import { newId } from "./ids.ts"
import { type Handlers, route } from "./service.ts"
import { testRuntime, until } from "./testing.ts"
import { createTracing } from "./tracing.ts"

type Execute = (request: ExecuteRequest, context: HandlerContext) => Promise<object> | object

const digest = "ab".repeat(32)
const path = `/${ExecutionService.typeName}/BatchExecute`
const hang = () => new Promise<never>(() => undefined)
/** An answer that says which request it is for. */
const answerOf = ({ workspaceId, runId }: ExecuteRequest) => ({
  execution: { outcome: { case: "error", value: { reason: workspaceId, message: runId } } },
})
const workspaceOf = ({ execution }: ExecuteResponse) => errorOf(execution)?.reason
const runOf = ({ execution }: ExecuteResponse) => errorOf(execution)?.message
const errorOf = (execution: ExecuteResponse["execution"]) =>
  execution?.outcome.case === "error" ? execution.outcome.value : undefined
const keep = (bytes: Buffer) => bytes

/** The calls that reached the handler. */
let seen: { readonly request: ExecuteRequest; readonly context: HandlerContext }[] = []
let execute: Execute = answerOf
let stack: AsyncDisposableStack
beforeEach(() => {
  seen = []
  execute = answerOf
  stack = new AsyncDisposableStack()
})
afterEach(() => stack.disposeAsync())

const handlers = {
  execute: (request: ExecuteRequest, context: HandlerContext) => {
    seen.push({ request, context })
    return execute(request, context)
  },
} as unknown as Handlers<typeof ExecutionService>

function serve(tracer = testRuntime("tools").tracer) {
  const runtime = { ...testRuntime("tools"), tracer }
  const routes = [route(ExecutionService, complete(handlers))]
  return createGrpcServer({ routes, runtime }, { listen: "127.0.0.1:0", drainMs: 2_000 })
}

/** The other handlers of the service, which nobody calls. */
function complete(some: Handlers<typeof ExecutionService>): Handlers<typeof ExecutionService> {
  const unused = () => Promise.reject(new RunwardenError("INTERNAL"))
  const all = ExecutionService.methods
    .filter(({ localName }) => localName !== "batchExecute")
    .map(({ localName }) => [localName, unused])
  return { ...Object.fromEntries(all), ...some }
}

async function start(tracer?: Tracer): Promise<number> {
  return (await stack.use(serve(tracer)).start()).port
}

/** A client whose connection is up, so that what it calls in one turn leaves together. */
async function connect(port: number, tracer = testRuntime("orchestrator").tracer) {
  const caller = { ...testRuntime("orchestrator"), tracer }
  const transport = stack.use(createGrpcTransport(`127.0.0.1:${port}`, caller, "tools"))
  const client = createMeshClient(ExecutionService, transport)
  const workspaceId = newId()
  await client.execute(requestOf(workspaceId), actingAs(member(workspaceId)))
  seen = []
  return client
}

function requestOf(workspaceId: string, change: Partial<ExecuteRequest> = {}): ExecuteRequest {
  return create(ExecuteRequestSchema, {
    ...{ workspaceId, runId: newId(), stepIndex: 0, idempotencyKey: newId(), tool: "a/b" },
    ...{ definitionDigest: digest, arguments: {}, argumentsDigest: digest, epoch: 1n, ...change },
  })
}

const member = (workspaceId: string, actorId = "actor") =>
  memberSubject(workspaceId, actorId, Role.MEMBER)
const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason
const failure = (call: Promise<unknown>) =>
  call.then(
    () => Promise.reject(new Error("the call succeeded")),
    (error: ConnectError) => error,
  )

describe("calls of one turn", () => {
  test("leave together, each for its own workspace and actor", async () => {
    const client = await connect(await start())
    const workspaces = Array.from({ length: 5 }, newId)
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) => {
        const workspaceId = workspaces[i % 5] ?? ""
        const subject = member(workspaceId, `actor ${i % 7}`)
        return client.execute(requestOf(workspaceId), actingAs(subject))
      }),
    )
    expect(answers.map(workspaceOf)).toEqual(
      Array.from({ length: 20 }, (_, i) => workspaces[i % 5]),
    )
    const callers = seen.map(({ context }) => callerOf(context))
    expect(callers.map(({ actorId, issuer }) => `${actorId} ${issuer}`)).toEqual(
      Array.from({ length: 20 }, (_, i) => `actor ${i % 7} orchestrator`),
    )
    // What came alone brought headers.
    expect(seen.every(({ context }) => !context.requestHeader.has(identityHeader))).toBe(true)
  })

  test("are as many as there are, in batches of 64 and of what a message may weigh", async () => {
    const client = await connect(await start())
    const workspaceId = newId()
    const large = { arguments: { text: "x".repeat(50_000) } }
    const requests = Array.from({ length: 200 }, (_, i) =>
      requestOf(workspaceId, i % 20 === 0 ? large : {}),
    )
    const answers = await Promise.all(
      requests.map((request) => client.execute(request, actingAs(member(workspaceId)))),
    )
    expect(answers.map(runOf)).toEqual(requests.map(({ runId }) => runId))
  })

  test("carry the call that each is bound to, for one use", async () => {
    const client = await connect(await start())
    const workspaceId = newId()
    const calls = Array.from({ length: 10 }, (_, stepIndex) => ({
      runId: newId(),
      stepIndex,
      digest,
    }))
    await Promise.all(
      calls.map((call) =>
        client.execute(requestOf(workspaceId), actingAs(member(workspaceId), { call })),
      ),
    )
    expect(seen.map(({ context }) => callerOf(context).call)).toEqual(calls)
  })

  test("wait for nobody: a slow one is answered later", async () => {
    const release = Promise.withResolvers<void>()
    const client = await connect(await start())
    const workspaceId = newId()
    const slow = requestOf(workspaceId)
    execute = async (request) => {
      if (request.runId === slow.runId) await release.promise
      return answerOf(request)
    }
    const waiting = client.execute(slow, actingAs(member(workspaceId)))
    const others = Array.from({ length: 5 }, () =>
      client.execute(requestOf(workspaceId), actingAs(member(workspaceId))),
    )
    await Promise.all(others)
    release.resolve()
    expect(runOf(await waiting)).toBe(slow.runId)
  })

  test("hang each below the span of its caller", async () => {
    const [server, caller] = [new InMemorySpanExporter(), new InMemorySpanExporter()]
    // Their own shutdown would forget what they have.
    for (const exporter of [server, caller]) exporter.shutdown = async () => undefined
    const tracings = [createTracing("tools", server), createTracing("orchestrator", caller)]
    const [tools, orchestrator] = tracings.map(({ tracer }) => tracer)
    const client = await connect(await start(tools), orchestrator)
    const workspaceId = newId()
    const call = () => client.execute(requestOf(workspaceId), actingAs(member(workspaceId)))
    await Promise.all([call(), call(), call()])
    for (const tracing of tracings) await tracing[Symbol.asyncDispose]()
    const parents = server.getFinishedSpans().map((span) => span.parentSpanContext?.spanId)
    const calls = caller.getFinishedSpans().map((span) => span.spanContext().spanId)
    expect(parents).toHaveLength(4)
    expect(parents.toSorted()).toEqual(calls.toSorted())
  })
})

describe("an item alone fails", () => {
  test("that is for another workspace than its identity", async () => {
    const client = await connect(await start())
    const [ours, theirs] = [newId(), newId()]
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    const bad = client.execute(requestOf(theirs), actingAs(member(ours)))
    await expect(bad).rejects.toSatisfy(isReason("WORKSPACE_MISMATCH"))
    expect(workspaceOf(await good)).toBe(ours)
    expect(seen).toHaveLength(1)
  })

  test("that breaks a rule, with the field named", async () => {
    const client = await connect(await start())
    const ours = newId()
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    const bad = failure(client.execute(requestOf(ours, { runId: "no" }), actingAs(member(ours))))
    const [violations] = (await bad).findDetails(BadRequestSchema)
    expect(violations?.fieldViolations.map(({ field }) => field)).toEqual(["run_id"])
    await good
  })

  test("that the handler refuses, with every detail and nothing else", async () => {
    const client = await connect(await start())
    const ours = newId()
    execute = ({ stepIndex }) => {
      if (stepIndex === 1) throw illegalTransition("run", "failed", "running", ["queued"])
      if (stepIndex === 2) throw new Error("password is hunter2")
      return {}
    }
    const call = (stepIndex: number) =>
      client.execute(requestOf(ours, { stepIndex }), actingAs(member(ours)))
    const [good, refused, broken] = [call(0), failure(call(1)), failure(call(2))]
    expect(metadataOf(await refused)).toMatchObject({ current: "failed", allowed: "queued" })
    expect((await refused).code).toBe(Code.FailedPrecondition)
    const { message, stack: trace, cause } = await broken
    expect(JSON.stringify([message, trace, cause])).not.toContain("hunter2")
    await good
  })

  test("that does not say for whom it is", async () => {
    const client = await connect(await start())
    const ours = newId()
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    await expect(client.execute(requestOf(ours))).rejects.toSatisfy(isReason("INTERNAL"))
    await good
  })

  test("at its own deadline, also for a handler that ignores it", async () => {
    const client = await connect(await start())
    const ours = newId()
    execute = ({ stepIndex }) => (stepIndex === 1 ? hang() : {})
    const call = (stepIndex: number, timeoutMs: number) =>
      client.execute(requestOf(ours, { stepIndex }), actingAs(member(ours), { timeoutMs }))
    const started = performance.now()
    const [late, good] = [failure(call(1, 200.25)), call(0, 5_000.5)]
    expect((await late).code).toBe(Code.DeadlineExceeded)
    expect(performance.now() - started).toBeLessThan(1_500)
    await good
    const [aborted, other] = seen.map(({ context }) => context)
    await until(() => aborted?.signal.aborted)
    expect(aborted?.timeoutMs()).toBeLessThanOrEqual(201)
    expect(other?.timeoutMs()).toBeGreaterThan(2_000)
  })

  test("when its caller gives up; the handlers are aborted when all have", async () => {
    const client = await connect(await start())
    const ours = newId()
    execute = hang
    const [first, second] = [new AbortController(), new AbortController()]
    const calls = [first, second].map(({ signal }) =>
      failure(client.execute(requestOf(ours), actingAs(member(ours), { signal }))),
    )
    await until(() => seen.length === 2)
    const signals = seen.map(({ context }) => context.signal)
    first.abort()
    expect((await calls[0])?.code).toBe(Code.Canceled)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false])
    second.abort()
    expect((await calls[1])?.code).toBe(Code.Canceled)
    await until(() => signals.every(({ aborted }) => aborted))
  })
})

describe("a batch that breaks", () => {
  test("fails every item that has no answer, and sends none again", async () => {
    const proxy = stack.use(await tcpProxy(await start()))
    const client = await connect(proxy.port)
    const ours = newId()
    execute = ({ stepIndex }) => (stepIndex < 3 ? {} : hang())
    const calls = Array.from({ length: 6 }, (_, stepIndex) =>
      client.execute(requestOf(ours, { stepIndex }), actingAs(member(ours))),
    )
    await Promise.all(calls.slice(0, 3))
    proxy.cut()
    for (const call of calls.slice(3)) {
      await expect(call).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
    }
    await until(() => seen.slice(3).every(({ context }) => context.signal.aborted))
    expect(seen).toHaveLength(6)
  })

  test("is not broken by a drain: every item is answered", async () => {
    const server = serve()
    const { port } = await server.start()
    const client = await connect(port)
    const ours = newId()
    const release = Promise.withResolvers<void>()
    execute = async (request) => {
      await release.promise
      return answerOf(request)
    }
    const calls = Array.from({ length: 8 }, () =>
      client.execute(requestOf(ours), actingAs(member(ours))),
    )
    await until(() => seen.length === 8)
    const closing = server[Symbol.asyncDispose]()
    await new Promise((resolve) => setTimeout(resolve, 50))
    release.resolve()
    expect(await Promise.all(calls)).toHaveLength(8)
    await closing
  })
})

describe("a peer without batches", () => {
  test("gets every call alone, from the first refusal on", async () => {
    const runtime = testRuntime("tools")
    const paths: string[] = []
    const server = new Server()
    const definition = (name: string) => ({
      ...{ path: `/${ExecutionService.typeName}/${name}`, requestStream: false },
      ...{ responseStream: false, requestSerialize: keep, requestDeserialize: keep },
      ...{ responseSerialize: keep, responseDeserialize: keep },
    })
    server.addService(
      { Execute: definition("Execute") },
      {
        Execute: (
          call: { request: Buffer; metadata: Metadata; getPath(): string },
          callback: (error: null, bytes: Buffer) => void,
        ) => {
          paths.push(call.getPath())
          const [token] = call.metadata.get(identityHeader)
          const { workspaceId } = fromBinary(ExecuteRequestSchema, call.request)
          const answer = async () => {
            expect((await runtime.verifier.verify(String(token))).workspaceId).toBe(workspaceId)
            callback(null, Buffer.alloc(0))
          }
          void answer()
        },
      },
    )
    const port = await new Promise<number>((resolve, reject) =>
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      ),
    )
    stack.defer(() => server.forceShutdown())
    const client = await connect(port)
    const ours = newId()
    const call = { runId: newId(), stepIndex: 0, digest }
    for (let round = 0; round < 3; round++) {
      await Promise.all(
        Array.from({ length: 4 }, () =>
          client.execute(requestOf(ours), actingAs(member(ours), { call })),
        ),
      )
    }
    expect(paths).toHaveLength(13)
  })

  test("that is not there fails calls as if they had come alone", async () => {
    const transport = stack.use(
      createGrpcTransport("127.0.0.1:1", testRuntime("orchestrator"), "tools"),
    )
    const client = createMeshClient(ExecutionService, transport)
    const ours = newId()
    const calls = Array.from({ length: 3 }, () =>
      client.execute(requestOf(ours), actingAs(member(ours), { timeoutMs: 2_000 })),
    )
    for (const call of calls) {
      await expect(call).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
    }
  })
})

describe("an envelope that no client of ours sends", () => {
  const orchestrator = testRuntime("orchestrator")
  const sign = (subject: Subject, as = orchestrator) => as.signer.sign(subject, "tools")

  /** Sends the bytes, and reads what comes back. */
  async function open(bytes: Buffer, as = orchestrator) {
    const address = `127.0.0.1:${await start()}`
    const channel = new Client(address, credentials.createInsecure())
    stack.defer(() => channel.close())
    const metadata = new Metadata()
    metadata.set(identityHeader, await sign(serviceSubject(as.name, ""), as))
    return (request = bytes) => {
      const call = channel.makeServerStreamRequest(path, keep, keep, request, metadata)
      return { call, ended: read(call) }
    }
  }

  async function read(call: ClientReadableStream<Buffer>) {
    const results: BatchResult[] = []
    let failed: unknown
    call.on("data", (bytes: Buffer) => results.push(...decodeBatchResponse(bytes)))
    call.on("error", (error) => {
      failed = error
    })
    await new Promise((resolve) => call.on("end", resolve))
    results.sort((one, other) => one.item - other.item)
    const reasons = results.map(({ error }) =>
      error === undefined ? "answered" : reasonOf(fromStatusBytes(error)),
    )
    return failed === undefined ? reasons : reasonOf(fromStatus(failed as StatusObject))
  }

  const send = async (bytes: Buffer, as = orchestrator) => (await open(bytes, as))().ended

  const itemOf = (workspaceId: string, identity: number) => ({
    ...{ identity, timeoutMs: 0, traceParent: "" },
    request: toBinary(ExecuteRequestSchema, requestOf(workspaceId)),
  })

  test("has its forged, foreign, spent and missing identities refused, and nothing else", async () => {
    const ours = newId()
    const token = await sign(member(ours))
    const half = token.slice(0, -8)
    const forOthers = await orchestrator.signer.sign(member(ours), "moderation")
    // A good token of another service: not the one that sends this.
    const stolen = await sign(member(ours), testRuntime("gateway"))
    const identities = [token, "nonsense", half, forOthers, stolen]
    const items = [0, 1, 2, 3, 4, 5, 63].map((identity) => itemOf(ours, identity))
    expect(await send(encodeBatchRequest({ identities, items }))).toEqual([
      "answered",
      ...Array(6).fill("UNAUTHENTICATED"),
    ])
    expect(seen).toHaveLength(1)
  })

  test("spends an identity that names a call on one item, in one batch", async () => {
    const ours = newId()
    const bound = (stepIndex: number) => ({
      ...member(ours),
      call: { runId: ours, stepIndex, digest },
    })
    const one = await sign(bound(0))
    const several = await orchestrator.signer.signCalls([bound(1), bound(2)], "tools")
    const items = [0, 0, 1, 2, 1, 3].map((identity) => itemOf(ours, identity))
    const again = await open(encodeBatchRequest({ identities: [one, several], items }))
    const none = "UNAUTHENTICATED"
    expect(await again().ended).toEqual(["answered", none, "answered", "answered", none, none])
    expect(await again().ended).toEqual(Array(6).fill(none))
    expect(seen.map(({ context }) => callerOf(context).call?.stepIndex)).toEqual([0, 1, 2])
  })

  test("cannot use the identity of several where one is asked for", async () => {
    const bound = { ...member(newId()), call: { runId: newId(), stepIndex: 0, digest } }
    const token = await orchestrator.signer.signCalls([bound], "tools")
    await expect(testRuntime("tools").verifier.verify(token)).rejects.toSatisfy(
      isReason("UNAUTHENTICATED"),
    )
  })

  test("is refused with nothing in it, with too much, and when it is none", async () => {
    const ours = newId()
    const identities = [await sign(member(ours))]
    const items = Array.from({ length: 65 }, () => itemOf(ours, 0))
    expect(await send(encodeBatchRequest({ identities, items }))).toBe("MALFORMED_REQUEST")
    expect(await send(encodeBatchRequest({ identities, items: [] }))).toBe("MALFORMED_REQUEST")
    expect(await send(Buffer.from([0x12, 9, 1]))).toBe("MALFORMED_REQUEST")
    const many = Array<string>(65).fill("x")
    const one = items.slice(0, 1)
    expect(await send(encodeBatchRequest({ identities: many, items: one }))).toBe(
      "MALFORMED_REQUEST",
    )
    expect(seen).toHaveLength(0)
  })

  test("fails an item alone whose message cannot be read", async () => {
    const ours = newId()
    const identities = [await sign(member(ours))]
    const broken = { ...itemOf(ours, 0), request: Buffer.from([0x0a, 99]) }
    const items = [broken, itemOf(ours, 0)]
    expect(await send(encodeBatchRequest({ identities, items }))).toEqual([
      "MALFORMED_REQUEST",
      "answered",
    ])
  })

  test("is for the service that may call the method alone", async () => {
    const ours = newId()
    const moderation = testRuntime("moderation")
    const identities = [await sign(member(ours), moderation)]
    const batch = encodeBatchRequest({ identities, items: [itemOf(ours, 0)] })
    expect(await send(batch, moderation)).toBe("CALLER_NOT_ALLOWED")
    expect(seen).toHaveLength(0)
  })

  test("aborts all its items when it is cancelled", async () => {
    execute = hang
    const ours = newId()
    const identities = [await sign(member(ours))]
    const items = [itemOf(ours, 0), itemOf(ours, 0)]
    const { call } = (await open(encodeBatchRequest({ identities, items })))()
    await until(() => seen.length === 2)
    const signals = seen.map(({ context }) => context.signal)
    call.cancel()
    await until(() => signals.every(({ aborted }) => aborted))
  })
})
