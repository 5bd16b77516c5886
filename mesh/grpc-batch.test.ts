// Unary calls that travel together over a socket: what each keeps for itself, and what becomes of
// them when their batch breaks.
import { fromBinary } from "@bufbuild/protobuf"
import { Code, type ConnectError } from "@connectrpc/connect"
import { type Metadata, Server, ServerCredentials } from "@grpc/grpc-js"
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace"
import { describe, expect, test } from "vitest"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { ExecuteRequestSchema, type ExecuteResponse } from "../gen/runwarden/tools/v1/execute_pb.ts"
import { ExecutionService } from "../gen/runwarden/tools/v1/execution_service_pb.ts"
import { createMeshClient } from "./client.ts"
import { illegalTransition, metadataOf, reasonOf } from "./errors.ts"
import {
  answerOf,
  digest,
  memberOf as member,
  requestOf,
  useExecuteTarget,
} from "./fixtures/execute-target.ts"
import { tcpProxy } from "./fixtures/tcp-proxy.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { actingAs, callerOf, identityHeader } from "./identity.ts"
import { newId } from "./ids.ts"
import { testRuntime, until } from "./testing.ts"
import { createTracing } from "./tracing.ts"

const target = useExecuteTarget()
const hang = () => new Promise<never>(() => undefined)
const keep = (bytes: Buffer) => bytes
const workspaceOf = ({ execution }: ExecuteResponse) => errorOf(execution)?.reason
const runOf = ({ execution }: ExecuteResponse) => errorOf(execution)?.message
const errorOf = (execution: ExecuteResponse["execution"]) =>
  execution?.outcome.case === "error" ? execution.outcome.value : undefined
const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason
const failure = (call: Promise<unknown>) =>
  call.then(
    () => Promise.reject(new Error("the call succeeded")),
    (error: ConnectError) => error,
  )

describe("calls of one turn", () => {
  test("leave together, each for its own workspace and actor", async () => {
    const client = await target.connect(await target.start())
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
    const callers = target.seen.map(({ context }) => callerOf(context))
    expect(callers.map(({ actorId, issuer }) => `${actorId} ${issuer}`)).toEqual(
      Array.from({ length: 20 }, (_, i) => `actor ${i % 7} orchestrator`),
    )
    // What came alone brought headers.
    expect(target.seen.every(({ context }) => !context.requestHeader.has(identityHeader))).toBe(
      true,
    )
  })

  test("are as many as there are, in batches of 64 and of what a message may weigh", async () => {
    const client = await target.connect(await target.start())
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
    const client = await target.connect(await target.start())
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
    expect(target.seen.map(({ context }) => callerOf(context).call)).toEqual(calls)
  })

  test("wait for nobody: a slow one is answered later", async () => {
    const release = Promise.withResolvers<void>()
    const client = await target.connect(await target.start())
    const workspaceId = newId()
    const slow = requestOf(workspaceId)
    target.execute = async (request) => {
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
    const client = await target.connect(await target.start(tools), orchestrator)
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
    const client = await target.connect(await target.start())
    const [ours, theirs] = [newId(), newId()]
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    const bad = client.execute(requestOf(theirs), actingAs(member(ours)))
    await expect(bad).rejects.toSatisfy(isReason("WORKSPACE_MISMATCH"))
    expect(workspaceOf(await good)).toBe(ours)
    expect(target.seen).toHaveLength(1)
  })

  test("that breaks a rule, with the field named", async () => {
    const client = await target.connect(await target.start())
    const ours = newId()
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    const bad = failure(client.execute(requestOf(ours, { runId: "no" }), actingAs(member(ours))))
    const [violations] = (await bad).findDetails(BadRequestSchema)
    expect(violations?.fieldViolations.map(({ field }) => field)).toEqual(["run_id"])
    await good
  })

  test("that the handler refuses, with every detail and nothing else", async () => {
    const client = await target.connect(await target.start())
    const ours = newId()
    target.execute = ({ stepIndex }) => {
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
    const client = await target.connect(await target.start())
    const ours = newId()
    const good = client.execute(requestOf(ours), actingAs(member(ours)))
    await expect(client.execute(requestOf(ours))).rejects.toSatisfy(isReason("INTERNAL"))
    await good
  })

  test("at its own deadline, also for a handler that ignores it", async () => {
    const client = await target.connect(await target.start())
    const ours = newId()
    target.execute = ({ stepIndex }) => (stepIndex === 1 ? hang() : {})
    const call = (stepIndex: number, timeoutMs: number) =>
      client.execute(requestOf(ours, { stepIndex }), actingAs(member(ours), { timeoutMs }))
    const started = performance.now()
    const [late, good] = [failure(call(1, 200.25)), call(0, 5_000.5)]
    expect((await late).code).toBe(Code.DeadlineExceeded)
    expect(performance.now() - started).toBeLessThan(1_500)
    await good
    const [aborted, other] = target.seen.map(({ context }) => context)
    await until(() => aborted?.signal.aborted)
    expect(aborted?.timeoutMs()).toBeLessThanOrEqual(201)
    expect(other?.timeoutMs()).toBeGreaterThan(2_000)
  })

  test("when its caller gives up; the handlers are aborted when all have", async () => {
    const client = await target.connect(await target.start())
    const ours = newId()
    target.execute = hang
    const [first, second] = [new AbortController(), new AbortController()]
    const calls = [first, second].map(({ signal }) =>
      failure(client.execute(requestOf(ours), actingAs(member(ours), { signal }))),
    )
    await until(() => target.seen.length === 2)
    const signals = target.seen.map(({ context }) => context.signal)
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
    const proxy = target.stack.use(await tcpProxy(await target.start()))
    const client = await target.connect(proxy.port)
    const ours = newId()
    target.execute = ({ stepIndex }) => (stepIndex < 3 ? {} : hang())
    const calls = Array.from({ length: 6 }, (_, stepIndex) =>
      client.execute(requestOf(ours, { stepIndex }), actingAs(member(ours))),
    )
    await Promise.all(calls.slice(0, 3))
    proxy.cut()
    for (const call of calls.slice(3)) {
      await expect(call).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
    }
    await until(() => target.seen.slice(3).every(({ context }) => context.signal.aborted))
    expect(target.seen).toHaveLength(6)
  })

  test("is not broken by a drain: every item is answered", async () => {
    const server = target.serve()
    const { port } = await server.start()
    const client = await target.connect(port)
    const ours = newId()
    const release = Promise.withResolvers<void>()
    target.execute = async (request) => {
      await release.promise
      return answerOf(request)
    }
    const calls = Array.from({ length: 8 }, () =>
      client.execute(requestOf(ours), actingAs(member(ours))),
    )
    await until(() => target.seen.length === 8)
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
    target.stack.defer(() => server.forceShutdown())
    const client = await target.connect(port)
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
    const transport = target.stack.use(
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
