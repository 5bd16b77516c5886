/**
 * One call against a scripted ledger: when it is asked again, when it is given up, and what is then
 * said of it.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { beforeEach, describe, expect, it } from "vitest"
import type {
  ExecuteRequest,
  ExecuteResponseSchema,
} from "../../../gen/runwarden/tools/v1/execute_pb.ts"
import {
  AttemptFault,
  ExecutionState,
  FailedAttemptSchema,
} from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import {
  type CancelExecutionRequest,
  ExecutionService,
  type SealExecutionResponseSchema,
} from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { newId } from "../../../mesh/ids.ts"
import { testClient, testRuntime, until } from "../../../mesh/testing.ts"
import { fakeRoute } from "../orchestrator-harness.ts"
import { clockFrom, type RunRecord, type ToolCallRecord } from "../run/snapshot.ts"
import { Scope } from "../scope.ts"
import { type ExecutionDeps, executeCall, settleCall } from "./execution.ts"
import { LeaseLost } from "./lease.ts"
import { createRetryBudgets } from "./retry-budget.ts"

type Executed = MessageInitShape<typeof ExecuteResponseSchema> | Error
type Sealed = MessageInitShape<typeof SealExecutionResponseSchema> | Error

const done: Executed = {
  execution: {
    state: ExecutionState.SUCCEEDED,
    outcome: { case: "result", value: { ok: true } },
    attempts: 1,
  },
}
const inFlight = { state: ExecutionState.IN_FLIGHT, attempts: 1 }
const retry = {
  maxAttempts: 4,
  initialBackoff: durationFromMs(1),
  maxBackoff: durationFromMs(2),
}
const givenUp = (applied: string): Sealed => ({
  sealed: true,
  execution: {
    state: ExecutionState.FAILED,
    outcome: { case: "error", value: { reason: "given_up", message: "m", metadata: { applied } } },
  },
})

let asked: ExecuteRequest[] = []
let cancelled: CancelExecutionRequest[] = []
let seals = 0
/** What the ledger answers to the nth request. */
let answer: (n: number) => Executed | Promise<Executed>
let sealing: (n: number) => Sealed

beforeEach(() => {
  asked = []
  cancelled = []
  seals = 0
  answer = () => done
  sealing = () => givenUp("false")
})

const tools = testClient(
  ExecutionService,
  {
    routes: [
      fakeRoute(ExecutionService, {
        async execute(request: ExecuteRequest) {
          asked.push(request)
          return orThrow(await answer(asked.length))
        },
        sealExecution: () => orThrow(sealing(++seals)),
        cancelExecution(request: CancelExecutionRequest) {
          cancelled.push(request)
          return { stopping: true }
        },
      }),
    ],
    runtime: testRuntime("tools"),
  },
  "orchestrator",
)

function orThrow<T>(value: T | Error): T {
  if (value instanceof Error) throw value
  return value
}

function failedAttempt(fault: AttemptFault, attempts: number, retryAfterMs?: number): Executed {
  return {
    execution: { ...inFlight, attempts },
    failedAttempt: create(FailedAttemptSchema, {
      fault,
      reason: "internal",
      retry: { ...retry, retryableReasons: [] } as never,
      ...(retryAfterMs === undefined ? {} : { retryAfter: durationFromMs(retryAfterMs) }),
    }),
  }
}

/** Executes one call; the deps and signals are its own. */
function execution(changes: Partial<ToolCallRecord> = {}) {
  const deps: ExecutionDeps = {
    tools,
    config: {
      ...{ executeTimeoutMs: 5_000, maxRetries: 2, retryMs: 2, settleMs: 60 },
    } as ExecutionDeps["config"],
    retries: createRetryBudgets(),
    reached: () => {},
  }
  const workspaceId = newId()
  const runId = newId()
  const run = { workspaceId, runId, requesterId: newId(), requesterRole: 2, epoch: 3 } as RunRecord
  const call = {
    ...{ runId, workspaceId, stepIndex: 0, idempotencyKey: `${runId}/0`, attempts: 1 },
    ...{ tool: "orders/order.pay", effect: "keyed", definitionDigest: "a".repeat(64) },
    ...{ arguments: { n: 1 }, argumentsDigest: "b".repeat(64) },
    ...changes,
  } as ToolCallRecord
  const lost = new Scope()
  const stopped = new Scope()
  return {
    ...{ deps, run, call, lost, stopped },
    ended: () => executeCall(deps, run, call, { lost, stopped }, clockFrom(new Date())),
    settled: () => settleCall(deps, run, call, "cancelled", lost),
  }
}

describe("a call", () => {
  it("is sent again under the same key while its attempts end nothing", async () => {
    answer = (n) => (n < 4 ? failedAttempt(AttemptFault.LOST, n) : done)
    expect(await execution().ended()).toEqual({
      kind: "succeeded",
      result: { ok: true },
      text: '{"ok":true}',
    })
    expect(new Set(asked.map((request) => request.idempotencyKey)).size).toBe(1)
    expect(asked.map(({ epoch }) => epoch)).toEqual([3n, 3n, 3n, 3n])
    expect(seals).toBe(0)
  })

  it("is given up after the last attempt that its policy allows, and sealed", async () => {
    answer = (n) => failedAttempt(AttemptFault.NOT_SENT, n)
    sealing = () => givenUp("unknown")
    expect(await execution().ended()).toMatchObject({
      kind: "failed",
      reason: "tool_unavailable",
      error: { reason: "tool_unavailable", metadata: { applied: "unknown" } },
    })
    expect([asked.length, seals]).toEqual([4, 1])
  })

  it("counts attempts of owners before it", async () => {
    answer = () => failedAttempt(AttemptFault.LOST, 4)
    await execution().ended()
    expect(asked).toHaveLength(1)
  })

  it("is not sent again when it is unsafe and may have been sent", async () => {
    answer = () => failedAttempt(AttemptFault.LOST, 1)
    sealing = () => ({ execution: { state: ExecutionState.OUTCOME_UNKNOWN } })
    expect(await execution({ effect: "unsafe" }).ended()).toEqual({ kind: "unknown" })
    answer = (n) => (n < 4 ? failedAttempt(AttemptFault.NOT_SENT, 1) : done)
    expect(await execution({ effect: "unsafe" }).ended()).toMatchObject({ kind: "succeeded" })
    expect(asked).toHaveLength(4)
  })

  it("waits as long as its provider asks for", async () => {
    answer = (n) => (n < 2 ? failedAttempt(AttemptFault.TOOL_ERROR, n, 80) : done)
    const began = performance.now()
    await execution().ended()
    expect(performance.now() - began).toBeGreaterThanOrEqual(79)
  })

  it("waits for one that is in flight for as long as it takes, which is no failure", async () => {
    const busy = new RunwardenError("IDEMPOTENCY_IN_PROGRESS", { tool: "t" }, { retryAfterMs: 1 })
    answer = (n) => (n < 20 ? busy : done)
    expect(await execution().ended()).toMatchObject({ kind: "succeeded" })
    expect(asked).toHaveLength(20)
  })

  it("is asked for again while the tools service is away, a few times", async () => {
    const away = new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "tools" })
    answer = (n) => (n < 3 ? away : done)
    expect(await execution().ended()).toMatchObject({ kind: "succeeded" })
    asked = []
    answer = () => away
    expect(await execution().ended()).toMatchObject({ reason: "tool_unavailable" })
    expect([asked.length, seals]).toEqual([3, 1])
  })

  it("that is refused at once has not run; later it may have", async () => {
    answer = () => new RunwardenError("UNKNOWN_TOOL", { tool: "t" })
    expect(await execution().ended()).toMatchObject({ kind: "failed", reason: "unknown_tool" })
    expect(seals).toBe(0)
    const again = execution({ attempts: 2 })
    expect(await again.ended()).toMatchObject({ kind: "failed", reason: "tool_unavailable" })
    expect(seals).toBe(1)
  })

  it("is held back once its provider's budget is used up, and gives up in its time", async () => {
    const { deps, ended } = execution()
    for (let n = 0; n < 20; n++) deps.retries.failed("orders")
    deps.retries.mayRetry("orders")
    answer = (n) => failedAttempt(AttemptFault.LOST, n)
    expect(await ended()).toMatchObject({ kind: "failed", reason: "tool_unavailable" })
    expect(asked).toHaveLength(1)
  })

  it("of an overtaken owner is left alone", async () => {
    answer = () => new RunwardenError("LEASE_LOST", { run_id: newId() })
    await expect(execution().ended()).rejects.toThrow(LeaseLost)
    const { lost, ended } = execution()
    answer = () => new Promise(() => {})
    const ending = ended()
    await until(() => asked.length === 2)
    lost.end(new LeaseLost("r"))
    await expect(ending).rejects.toThrow(LeaseLost)
    expect(seals).toBe(0)
  })
})

describe("a call that is not wanted any more", () => {
  it("is told to stop, and ends as the ledger then says", async () => {
    answer = () => new Promise(() => {})
    sealing = (n) => ({ execution: n < 3 ? inFlight : ({ ...done.execution } as never) })
    const { stopped, ended, call } = execution()
    const ending = ended()
    await until(() => asked.length === 1)
    stopped.end(new Error("cancelled"))
    expect(await ending).toEqual({ kind: "succeeded", result: { ok: true }, text: '{"ok":true}' })
    expect(cancelled).toMatchObject([{ idempotencyKey: call.idempotencyKey, epoch: 3n }])
  })

  it("that was never sent is sealed and nothing else", async () => {
    const { stopped, ended } = execution()
    stopped.end(new Error("cancelled"))
    expect(await ended()).toMatchObject({
      kind: "failed",
      reason: "cancelled",
      error: { metadata: { applied: "false" } },
    })
    expect([asked.length, cancelled.length]).toEqual([0, 0])
  })

  const silent: readonly (readonly [ToolCallRecord["effect"], object])[] = [
    ["read", { kind: "failed", error: { metadata: { applied: "false" } } }],
    ["keyed", { kind: "failed", error: { metadata: { applied: "unknown" } } }],
    ["unsafe", { kind: "unknown" }],
  ]
  it.each(silent)(
    "is, when it is %s and the ledger is away, no more than that",
    async (effect, outcome) => {
      sealing = () => new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "tools" })
      expect(await execution({ effect }).settled()).toMatchObject(outcome)
      expect(seals).toBeGreaterThan(1)
    },
  )

  it("of a tool that never was has not run", async () => {
    sealing = () => new RunwardenError("UNKNOWN_TOOL", { tool: "t" })
    expect(await execution({ effect: "unsafe" }).settled()).toMatchObject({ kind: "failed" })
  })

  it("of an overtaken owner is left alone", async () => {
    sealing = () => new RunwardenError("LEASE_LOST", { run_id: newId() })
    await expect(execution().settled()).rejects.toThrow(LeaseLost)
  })
})
