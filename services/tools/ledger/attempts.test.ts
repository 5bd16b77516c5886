/**
 * One Execute, one sending: what an attempt that ended nothing says of itself, what the next one may
 * do, and what a crash in between leaves behind.
 */
import { create } from "@bufbuild/protobuf"
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { AttemptFault, ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { Effect, RetryPolicySchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { Outcome } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { definition, FakeProvider, result } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { until } from "../../../mesh/testing.ts"
import { callOf, execute, type Started, standardTools, startTools } from "../tools-harness.ts"

let tools: Started
let provider: FakeProvider
const retry = create(RetryPolicySchema, { maxAttempts: 3, retryableReasons: ["busy"] })
const patient = [
  definition("patient_look", { effect: Effect.READ, retry }),
  definition("patient_create", { effect: Effect.KEYED, retry }),
]

beforeAll(async () => {
  tools = await startTools((first) => {
    first.tools = [...standardTools, ...patient]
  })
  provider = tools.provider
})

beforeEach(() => {
  const fresh = new FakeProvider()
  provider.answer = fresh.answer
  provider.before = fresh.before
  provider.outcome = fresh.outcome
  provider.outcomesAsked = 0
  provider.sendings.length = 0
  provider.effects.clear()
})

afterAll(() => tools[Symbol.asyncDispose]())

describe("an attempt that never left", () => {
  it.each(["look", "create", "fire"])("leaves %s open, to be sent again", async (name) => {
    let refusals = 2
    provider.before = () => {
      if (refusals-- > 0) throw new RunwardenError("SHUTTING_DOWN", { service: "projects" })
    }
    const call = await callOf(tools, name)
    for (const attempts of [1, 2]) {
      const { execution, failedAttempt } = await execute(tools, call)
      expect(execution).toMatchObject({ state: ExecutionState.IN_FLIGHT, attempts })
      expect(failedAttempt).toMatchObject({
        fault: AttemptFault.NOT_SENT,
        reason: "shutting_down",
        retry: { maxAttempts: 8 },
      })
    }
    const { execution, failedAttempt } = await execute(tools, call)
    expect(failedAttempt).toBeUndefined()
    expect(execution).toMatchObject({ state: ExecutionState.SUCCEEDED, attempts: 3 })
    expect(provider.effects.get(call.request.idempotencyKey)).toBe(1)
  })

  it("says when to come back where the provider says so", async () => {
    provider.before = () => {
      const limit = { limit: "calls a minute", maximum: "10" }
      throw new RunwardenError("LIMIT_EXCEEDED", limit, { retryAfterMs: 1_500 })
    }
    const { failedAttempt } = await execute(tools, await callOf(tools, "fire"))
    expect(failedAttempt?.fault).toBe(AttemptFault.NOT_SENT)
    expect(failedAttempt?.retryAfter && durationMs(failedAttempt.retryAfter)).toBe(1_500)
  })

  it("is one that nobody waits for any more when it could be sent", async () => {
    const call = await callOf(tools, "fire")
    await tools.sql("begin; lock table executions in access exclusive mode")
    const caller = new AbortController()
    const { runId, stepIndex, argumentsDigest: digest } = call.request
    const options = { signal: caller.signal, timeoutMs: 5_000, call: { runId, stepIndex, digest } }
    const answer = tools.execution.execute(call.request, actingAs(call.subject, options))
    answer.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 100))
    caller.abort()
    await tools.sql("commit")
    await expect(answer).rejects.toThrow()
    await until(async () => (await tools.rowOf(call))?.is_open === true)
    expect(provider.sendings).toHaveLength(0)
    expect((await execute(tools, call)).execution).toMatchObject({
      state: ExecutionState.SUCCEEDED,
      attempts: 2,
    })
  })
})

describe("an error of the tool's own", () => {
  const fail = (reason: string, retryAfterMs?: number) => {
    provider.answer = () => ({
      outcome: {
        case: "error",
        value: {
          reason,
          message: "not now",
          ...(retryAfterMs === undefined ? {} : { retryAfter: durationFromMs(retryAfterMs) }),
        },
      },
    })
  }

  it.each(["patient_look", "patient_create"])(
    "leaves %s open where its policy names the reason, until the last attempt",
    async (name) => {
      fail("busy", 700)
      const call = await callOf(tools, name)
      for (const attempts of [1, 2]) {
        const { execution, failedAttempt } = await execute(tools, call)
        expect(execution).toMatchObject({ state: ExecutionState.IN_FLIGHT, attempts })
        expect(failedAttempt).toMatchObject({ fault: AttemptFault.TOOL_ERROR, reason: "busy" })
        expect(failedAttempt?.retryAfter && durationMs(failedAttempt.retryAfter)).toBe(700)
      }
      const last = await execute(tools, call)
      expect(last.failedAttempt).toBeUndefined()
      expect(last.execution).toMatchObject({
        state: ExecutionState.FAILED,
        attempts: 3,
        outcome: { value: { reason: "busy", message: "not now" } },
      })
      expect((await execute(tools, call)).replayed).toBe(true)
    },
  )

  it.each(["patient_create", "create", "fire"])("ends %s for any other reason", async (name) => {
    fail(name === "patient_create" ? "gone" : "busy")
    const { execution } = await execute(tools, await callOf(tools, name))
    expect(execution).toMatchObject({ state: ExecutionState.FAILED, attempts: 1 })
  })
})

const lose = (times: number) => {
  let left = times
  provider.answer = () => {
    if (left-- > 0) throw new Error("crashed after the effect")
    return result({ ok: true })
  }
}

describe("a lost answer", () => {
  it.each(["look", "create"])("leaves %s open, and is asked for again by request", async (name) => {
    lose(2)
    const call = await callOf(tools, name)
    for (const attempts of [1, 2]) {
      const { execution, failedAttempt } = await execute(tools, call)
      expect(execution).toMatchObject({ state: ExecutionState.IN_FLIGHT, attempts })
      expect(failedAttempt).toMatchObject({ fault: AttemptFault.LOST, reason: "internal" })
      expect(provider.sendings).toHaveLength(attempts)
    }
    const { execution } = await execute(tools, call)
    expect(execution).toMatchObject({ state: ExecutionState.SUCCEEDED, attempts: 3 })
    if (name === "create") expect(provider.effects.get(call.request.idempotencyKey)).toBe(1)
  })

  it("makes an unsafe call OUTCOME_UNKNOWN, never sent again, until the provider can tell", async () => {
    lose(10)
    const call = await callOf(tools, "fire")
    const { execution, failedAttempt } = await execute(tools, call)
    expect(failedAttempt).toBeUndefined()
    expect(execution).toMatchObject({ state: ExecutionState.OUTCOME_UNKNOWN, attempts: 1 })
    expect(execution?.outcome.case).toBeUndefined()
    provider.outcome = new Error("away")
    expect(await execute(tools, call)).toMatchObject({ replayed: true, execution: { attempts: 1 } })
    provider.outcome = { outcome: Outcome.COMPLETED, response: result({ ok: true }) }
    const settled = await execute(tools, call)
    expect(settled).toMatchObject({
      replayed: false,
      execution: { state: ExecutionState.SUCCEEDED, outcome: { value: { ok: true } } },
    })
    expect(provider.sendings).toHaveLength(1)
    expect(provider.outcomesAsked).toBe(3)
  })

  it("is settled at once by a provider that knows that an unsafe call never ran", async () => {
    lose(1)
    provider.outcome = { outcome: Outcome.NOT_EXECUTED }
    const { execution } = await execute(tools, await callOf(tools, "fire"))
    expect(execution).toMatchObject({
      state: ExecutionState.FAILED,
      outcome: { value: { reason: "not_executed", metadata: { applied: "false" } } },
    })
  })

  it("is given up before the deadline when a provider hangs", { retry: 2 }, async () => {
    provider.answer = () => new Promise(() => {})
    const timeoutMs = 3_000
    const fire = await execute(tools, await callOf(tools, "fire"), { timeoutMs })
    expect(fire.execution?.state).toBe(ExecutionState.OUTCOME_UNKNOWN)
    const call = await callOf(tools, "create")
    const { failedAttempt } = await execute(tools, call, { timeoutMs })
    expect(failedAttempt).toMatchObject({ fault: AttemptFault.LOST, reason: "deadline_exceeded" })
    provider.answer = () => result({ ok: true })
    expect((await execute(tools, call)).execution?.attempts).toBe(2)
  })

  it("counts as the outcome when it comes after the caller has gone", async () => {
    provider.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 150))
      return result({ ok: true })
    }
    const call = await callOf(tools, "fire")
    const caller = new AbortController()
    const { runId, stepIndex, argumentsDigest: digest } = call.request
    const options = { signal: caller.signal, timeoutMs: 5_000, call: { runId, stepIndex, digest } }
    const answer = tools.execution.execute(call.request, actingAs(call.subject, options))
    await until(() => provider.sendings.length > 0)
    caller.abort()
    expect(reasonOf(await answer.catch((error: unknown) => error))).toBe("CANCELLED")
    await until(async () => (await tools.rowOf(call))?.state === "succeeded")
  })
})

describe("a crash between the answer and its record", () => {
  // A sequence counts what the failing transactions cannot: it is not rolled back.
  const breakLedger = () =>
    tools.sql(`create sequence tries;
      create function fail() returns trigger language plpgsql security definer as
        $$ begin perform nextval('tries'); raise exception 'the process is gone'; end $$;
      create trigger fail before update of state on executions for each row
        execute function fail()`)
  const healLedger = () =>
    tools.sql("drop trigger fail on executions; drop function fail(); drop sequence tries")

  async function crash(name: string) {
    const call = await callOf(tools, name)
    await breakLedger()
    await expect(execute(tools, call, { timeoutMs: 300 })).rejects.toThrow()
    await until(async () => (await tools.sql("select from tries where last_value = 6")).length > 0)
    await healLedger()
    await tools.expire(call)
    return call
  }
  it("repeats a call that only reads", async () => {
    const call = await crash("look")
    const { execution } = await execute(tools, call)
    expect(execution).toMatchObject({ state: ExecutionState.SUCCEEDED, attempts: 2 })
  })

  it("repeats a keyed call with its key: one effect", async () => {
    const call = await crash("create")
    const { execution } = await execute(tools, call)
    expect(execution).toMatchObject({ state: ExecutionState.SUCCEEDED, attempts: 2 })
    expect(provider.effects.get(call.request.idempotencyKey)).toBe(1)
  })

  it("asks about an unsafe call and does not send it again", async () => {
    const call = await crash("fire")
    const { execution } = await execute(tools, call)
    expect(execution).toMatchObject({ state: ExecutionState.OUTCOME_UNKNOWN, attempts: 1 })
    expect(provider.sendings).toHaveLength(1)
    provider.outcome = { outcome: Outcome.COMPLETED, response: result({ ok: true }) }
    expect((await execute(tools, call)).execution?.state).toBe(ExecutionState.SUCCEEDED)
    expect(provider.effects.get(call.request.idempotencyKey)).toBe(1)
  })
})
