/** Calls that take longer than a moment: their leases, who takes them over, and how they are stopped. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { AttemptFault, ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { Outcome } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { FakeProvider, result } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { until } from "../../../mesh/testing.ts"
import { callOf, execute, type Started, startTools, type TestCall } from "../tools-harness.ts"

const leaseMs = 3_000
let tools: Started
let replica: Pick<Started, "execution">
let provider: FakeProvider

beforeAll(async () => {
  tools = await startTools(undefined, leaseMs)
  replica = { execution: await tools.replica() }
  provider = tools.provider
})

beforeEach(() => {
  const fresh = new FakeProvider()
  provider.answer = fresh.answer
  provider.outcome = fresh.outcome
  provider.sendings.length = 0
})

afterAll(() => tools[Symbol.asyncDispose]())

/** Lets calls run until they are told to end, and tells which were cancelled. */
function hold() {
  const cancelled: string[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  provider.answer = async ({ idempotencyKey }, { signal }) => {
    signal.addEventListener("abort", () => cancelled.push(idempotencyKey))
    await promise
    return result({ ok: true })
  }
  return { cancelled, release: resolve }
}

const cancel = (
  { subject, request }: TestCall,
  { execution } = tools as Pick<Started, "execution">,
) => {
  const { workspaceId, runId, idempotencyKey, tool, epoch } = request
  const key = { workspaceId, runId, idempotencyKey, tool, epoch }
  return execution.cancelExecution(key, actingAs(subject))
}

describe("the lease of a call", () => {
  it("is short, and renewed for as long as the call runs", async () => {
    const { release } = hold()
    const call = await callOf(tools, "create")
    const answer = execute(tools, call)
    await until(() => provider.sendings.length > 0)
    expect((await tools.rowOf(call))?.left_ms).toBeLessThanOrEqual(leaseMs)
    await new Promise((resolve) => setTimeout(resolve, leaseMs + 500))
    const row = await tools.rowOf(call)
    expect(row?.left_ms).toBeGreaterThan(0)
    expect(row?.left_ms).toBeLessThanOrEqual(leaseMs)
    const other = await execute(replica, call).catch((error: unknown) => error)
    expect(reasonOf(other)).toBe("IDEMPOTENCY_IN_PROGRESS")
    release()
    expect((await answer).execution).toMatchObject({
      state: ExecutionState.SUCCEEDED,
      attempts: 1,
    })
    expect(provider.sendings).toHaveLength(1)
  })

  it("that was taken over stops the call, whose answer changes nothing", async () => {
    const { cancelled, release } = hold()
    const call = await callOf(tools, "create")
    const first = execute(tools, call).catch((error: unknown) => error)
    await until(() => provider.sendings.length > 0)
    await tools.expire(call)
    provider.answer = () => result({ ok: false })
    const second = await execute(replica, call)
    expect(second.execution).toMatchObject({ attempts: 2, outcome: { value: { ok: false } } })
    await until(() => cancelled.length > 0)
    release()
    expect(reasonOf(await first)).toBe("IDEMPOTENCY_IN_PROGRESS")
    expect((await execute(tools, call)).execution).toEqual(second.execution)
  })

  it("that cannot be renewed stops the call in time", async () => {
    const { cancelled, release } = hold()
    const call = await callOf(tools, "create")
    const began = Date.now()
    const answer = execute(tools, call).catch((error: unknown) => error)
    await until(() => provider.sendings.length > 0)
    await tools.sql(`create function fail() returns trigger language plpgsql as
        $$ begin raise exception 'no'; end $$;
      create trigger fail before update on executions for each row execute function fail()`)
    await until(() => cancelled.length > 0)
    const stoppedAfter = Date.now() - began
    await tools.sql("drop trigger fail on executions; drop function fail()")
    expect(stoppedAfter).toBeLessThan(leaseMs)
    expect(reasonOf(await answer)).toBe("IDEMPOTENCY_IN_PROGRESS")
    release()
    expect((await tools.rowOf(call))?.state).toBe("in_flight")
  })
})

describe("a claim that took too long", () => {
  it("is not followed by a sending: its lease may be over", async () => {
    await using slow = await startTools(undefined, 300)
    const call = await callOf(slow, "fire")
    await slow.sql("begin; lock table executions in access exclusive mode")
    const answer = execute(slow, call)
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    await slow.sql("commit")
    const { execution, failedAttempt } = await answer
    expect(slow.provider.sendings).toHaveLength(0)
    expect(execution?.state).toBe(ExecutionState.IN_FLIGHT)
    expect(failedAttempt?.fault).toBe(AttemptFault.NOT_SENT)
    expect(await slow.rowOf(call)).toMatchObject({ is_open: true, maybe_applied: false })
  })
})

describe("CancelExecution", () => {
  it.each(["at the replica that sends", "at another one"])("stops a read, %s", async (where) => {
    const { cancelled, release } = hold()
    const call = await callOf(tools, "look")
    const answer = execute(tools, call)
    await until(() => provider.sendings.length > 0)
    const told = await cancel(call, where === "at another one" ? replica : tools)
    expect(told.stopping).toBe(true)
    const { execution, failedAttempt } = await answer
    expect(execution?.state).toBe(ExecutionState.IN_FLIGHT)
    expect(failedAttempt).toMatchObject({ fault: AttemptFault.LOST, reason: "cancelled" })
    expect(cancelled).toEqual([call.request.idempotencyKey])
    release()
  })

  it("asks what became of a keyed call, and leaves it open where nobody can tell", async () => {
    const reports = [
      { outcome: Outcome.COMPLETED, response: result({ ok: true }) },
      { outcome: Outcome.NOT_EXECUTED },
      { outcome: Outcome.UNKNOWN },
    ]
    const states: unknown[] = []
    for (const report of reports) {
      provider.outcome = report
      provider.sendings.length = 0
      const { release } = hold()
      const call = await callOf(tools, "create")
      const answer = execute(tools, call)
      await until(() => provider.sendings.length > 0)
      await cancel(call)
      const { execution, failedAttempt } = await answer
      const row = await tools.rowOf(call)
      states.push([execution?.state, failedAttempt?.fault, row?.is_open, row?.maybe_applied])
      release()
    }
    expect(states).toEqual([
      [ExecutionState.SUCCEEDED, undefined, false, false],
      [ExecutionState.FAILED, undefined, false, false],
      [ExecutionState.IN_FLIGHT, AttemptFault.LOST, true, true],
    ])
  })

  it("asks what became of an unsafe call, which is unknown where nobody can tell", async () => {
    const { release } = hold()
    const call = await callOf(tools, "fire")
    const answer = execute(tools, call)
    await until(() => provider.sendings.length > 0)
    await cancel(call, replica)
    expect((await answer).execution?.state).toBe(ExecutionState.OUTCOME_UNKNOWN)
    release()
    expect(provider.sendings).toHaveLength(1)
  })

  it("takes an answer that came first", async () => {
    const call = await callOf(tools, "create")
    const done = await execute(tools, call)
    expect((await cancel(call)).stopping).toBe(false)
    expect((await execute(tools, call)).execution).toEqual(done.execution)
  })

  it("is refused to an owner that was overtaken", async () => {
    const call = await callOf(tools, "create")
    await execute(tools, { ...call, request: { ...call.request, epoch: 2n } })
    const error = await cancel(call).catch((thrown: unknown) => thrown)
    expect(reasonOf(error)).toBe("LEASE_LOST")
  })

  it("does not reach the sending that comes after it", async () => {
    const { release } = hold()
    const call = await callOf(tools, "create")
    const answer = execute(tools, call)
    await until(() => provider.sendings.length > 0)
    await cancel(call, replica)
    await answer
    release()
    provider.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 600))
      return result({ ok: true })
    }
    expect((await execute(replica, call)).execution).toMatchObject({
      state: ExecutionState.SUCCEEDED,
      attempts: 2,
    })
  })
})
