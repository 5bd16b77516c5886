// One body over every transport: a service must behave the same however it is reached.
import { Code, ConnectError } from "@connectrpc/connect"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { MetricsService } from "../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { createMeshClient } from "./client.ts"
import { remainingMs } from "./deadline.ts"
import { illegalTransition, metadataOf, reasonOf } from "./errors.ts"
import { actingAs, outgoing } from "./identity.ts"
import { until } from "./testing.ts"
import {
  connectProbe,
  createProbe,
  probeRun,
  probeSubject,
  probeWorkspace,
  transportKinds,
} from "./transport-probe.ts"

const request = { workspaceId: probeWorkspace, runId: probeRun }
const hourMs = 3_600_000
const hang = () => new Promise<never>(() => undefined)

describe.each(transportKinds)("%s", (kind) => {
  let probe = createProbe()
  let connection: Awaited<ReturnType<typeof connectProbe>>
  const client = () => createMeshClient(RunService, connection.transport)

  beforeEach(async () => {
    probe = createProbe()
    connection = await connectProbe(kind, probe)
  })
  afterEach(async () => {
    vi.useRealTimers()
    await connection[Symbol.asyncDispose]()
  })

  test("answers a unary call", async () => {
    const { run } = await client().getRun(request, actingAs(probeSubject))
    expect(run?.runId).toBe(probeRun)
  })

  test("streams in order and ends", async () => {
    const seen: bigint[] = []
    for await (const { event } of client().watchRun(request, actingAs(probeSubject))) {
      seen.push(event?.sequence ?? 0n)
    }
    expect(seen).toEqual([1n, 2n, 3n])
  })

  test("passes headers and trailers of the answer", async () => {
    probe.getRun = (_, context) => {
      context.responseHeader.set("x-probe", "a")
      context.responseTrailer.set("x-end", "b")
      return {}
    }
    let header: Headers | undefined
    let trailer: Headers | undefined
    await client().getRun(request, {
      ...actingAs(probeSubject),
      onHeader: (received) => {
        header = received
      },
      onTrailer: (received) => {
        trailer = received
      },
    })
    expect([header?.get("x-probe"), trailer?.get("x-end")]).toEqual(["a", "b"])
  })

  test("lives on when a header of the answer cannot be carried", async () => {
    probe.getRun = (_, context) => {
      context.responseHeader.set("x-probe", "caf\u00e9")
      context.responseTrailer.set("x-end", "caf\u00e9")
      return { run: { runId: probeRun } }
    }
    await client()
      .getRun(request, actingAs(probeSubject))
      .catch((error: unknown) => expect(reasonOf(error)).toBe("INTERNAL"))
    probe.getRun = () => ({ run: { runId: probeRun } })
    const { run } = await client().getRun(request, actingAs(probeSubject))
    expect(run?.runId).toBe(probeRun)
  })

  test("carries an error with its reason, metadata and nothing else", async () => {
    probe.getRun = () => {
      throw illegalTransition("run", "failed", "running", ["queued"])
    }
    const error = await failure(client().getRun(request, actingAs(probeSubject)))
    expect(error.code).toBe(Code.FailedPrecondition)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
    expect(metadataOf(error)).toMatchObject({ current: "failed", allowed: "queued" })
    expect(error.findDetails(ErrorInfoSchema)).toHaveLength(1)
    expect(error.cause).toBeUndefined()
  })

  test("says nothing of an unexpected failure", async () => {
    probe.getRun = () => {
      throw new Error("password is hunter2")
    }
    const error = await failure(client().getRun(request, actingAs(probeSubject)))
    expect(reasonOf(error)).toBe("INTERNAL")
    expect(JSON.stringify([error.message, error.stack, error.cause])).not.toContain("hunter2")
  })

  test("names the fields that break a rule", async () => {
    const bad = { workspaceId: probeWorkspace, runId: "nonsense" }
    const error = await failure(client().getRun(bad, actingAs(probeSubject)))
    expect(reasonOf(error)).toBe("INVALID_REQUEST")
    const [violations] = error.findDetails(BadRequestSchema)
    expect(violations?.fieldViolations.map((violation) => violation.field)).toEqual(["run_id"])
  })

  test("names the fields that break a rule of a streaming request", async () => {
    const bad = { workspaceId: probeWorkspace, runId: "nonsense" }
    const error = await failure(readAll(client().watchRun(bad, actingAs(probeSubject))))
    expect(reasonOf(error)).toBe("INVALID_REQUEST")
  })

  test("says that a method is not served", async () => {
    const other = createMeshClient(MetricsService, connection.transport)
    const error = await failure(other.getMetrics({}, actingAs(probeSubject)))
    expect(reasonOf(error)).toBe("METHOD_NOT_FOUND")
    expect(error.code).toBe(Code.Unimplemented)
  })

  test("answers in time for a handler that ignores its signal, and aborts it", async () => {
    let signal: AbortSignal | undefined
    probe.getRun = (_, context) => {
      signal = context.signal
      return hang()
    }
    const start = performance.now()
    const error = await failure(
      client().getRun(request, actingAs(probeSubject, { timeoutMs: 150 })),
    )
    expect(error.code).toBe(Code.DeadlineExceeded)
    expect(performance.now() - start).toBeLessThan(1_000)
    await until(() => signal?.aborted)
  })

  test("tells the handler how much time is left", async () => {
    let left: number | undefined
    probe.getRun = (_, context) => {
      left = context.timeoutMs()
      return {}
    }
    await client().getRun(request, actingAs(probeSubject, { timeoutMs: 5_000 }))
    expect(left).toBeGreaterThan(3_000)
    expect(left).toBeLessThanOrEqual(5_000)
  })

  test.each([hourMs, -hourMs])(
    "counts the time that passes, where the clock jumps by %d ms",
    async (jumpMs) => {
      let left: number | undefined
      let passedOn: number | undefined
      probe.getRun = (_, context) => {
        vi.setSystemTime(Date.now() + jumpMs)
        left = remainingMs(context)
        passedOn = outgoing(context).timeoutMs
        return hang()
      }
      const start = performance.now()
      const options = actingAs(probeSubject, { timeoutMs: 500 })
      const error = await failure(client().getRun(request, options))
      expect(error.code).toBe(Code.DeadlineExceeded)
      expect(performance.now() - start).toBeGreaterThan(450)
      expect(performance.now() - start).toBeLessThan(2_000)
      expect(left).toBeGreaterThan(200)
      expect(left).toBeLessThanOrEqual(501)
      expect(passedOn).toBeGreaterThan(100)
      expect(passedOn).toBeLessThan(460)
    },
  )

  test("ends a stream at its deadline", async () => {
    let signal: AbortSignal | undefined
    probe.watchRun = async function* (_, context) {
      signal = context.signal
      yield {}
      await hang()
    }
    const options = actingAs(probeSubject, { timeoutMs: 200 })
    const error = await failure(readAll(client().watchRun(request, options)))
    expect(error.code).toBe(Code.DeadlineExceeded)
    await until(() => signal?.aborted)
  })

  test("takes a deadline that is further away than a timer can wait", async () => {
    const options = actingAs(probeSubject, { timeoutMs: 2 ** 31 + 60_000 })
    const seen: bigint[] = []
    for await (const { event } of client().watchRun(request, options)) {
      seen.push(event?.sequence ?? 0n)
    }
    expect(seen).toHaveLength(3)
  })

  test("brings a cancel to the handler and answers the caller at once", async () => {
    let signal: AbortSignal | undefined
    probe.getRun = (_, context) => {
      signal = context.signal
      return hang()
    }
    const controller = new AbortController()
    const call = failure(
      client().getRun(request, actingAs(probeSubject, { signal: controller.signal })),
    )
    await until(() => signal)
    controller.abort()
    const error = await call
    expect(error.code).toBe(Code.Canceled)
    await until(() => signal?.aborted)
  })

  test("aborts the handler of a stream that nobody reads any more", async () => {
    let signal: AbortSignal | undefined
    probe.watchRun = async function* (_, context) {
      signal = context.signal
      yield {}
      yield {}
      await hang()
    }
    for await (const _ of client().watchRun(request, actingAs(probeSubject, { timeoutMs: 0 }))) {
      break
    }
    await until(() => signal?.aborted)
  })

  test("lets the handler of such a stream release what it holds", async () => {
    let held = 0
    probe.watchRun = async function* () {
      held++
      try {
        for (;;) yield {}
      } finally {
        held--
      }
    }
    for await (const _ of client().watchRun(request, actingAs(probeSubject, { timeoutMs: 0 }))) {
      expect(held).toBe(1)
      break
    }
    await until(() => held === 0)
  })

  test("fails a stream in the middle with its reason", async () => {
    probe.watchRun = async function* () {
      yield { event: { sequence: 1n } }
      throw illegalTransition("run", "failed", "running", [])
    }
    const seen: bigint[] = []
    const read = async () => {
      for await (const { event } of client().watchRun(request, actingAs(probeSubject))) {
        seen.push(event?.sequence ?? 0n)
      }
    }
    const error = await failure(read())
    expect(seen).toEqual([1n])
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
  })
})

async function failure(call: Promise<unknown>): Promise<ConnectError> {
  try {
    await call
  } catch (error) {
    if (error instanceof ConnectError) return error
    throw error
  }
  throw new Error("the call succeeded")
}

async function readAll(messages: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of messages);
}
