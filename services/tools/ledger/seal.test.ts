/** Sealing: a call that was given up never runs, whenever its request arrives. */
import { afterAll, beforeAll, expect, it } from "vitest"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { callOf, execute, type Started, startTools } from "../tools-harness.ts"

let tools: Started

beforeAll(async () => {
  tools = await startTools()
})
afterAll(() => tools[Symbol.asyncDispose]())

type TestCall = Awaited<ReturnType<typeof callOf>>

function seal({ subject, request }: TestCall, epoch = request.epoch) {
  const { arguments: _, ...sealing } = request
  return tools.execution.sealExecution({ ...sealing, epoch }, actingAs(subject))
}

it("a sealed call is answered as failed, and its provider never hears of it", async () => {
  const call = await callOf(tools, "fire")
  const first = await seal(call)
  expect(first).toMatchObject({
    sealed: true,
    execution: { state: ExecutionState.FAILED, attempts: 0 },
  })
  expect(await seal(call)).toEqual(first)
  const late = await execute(tools, call)
  expect(late).toMatchObject({
    replayed: true,
    execution: {
      state: ExecutionState.FAILED,
      outcome: { value: { reason: "given_up", metadata: { applied: "false" } } },
    },
  })
  expect(tools.provider.effects.has(call.request.idempotencyKey)).toBe(false)
})

it("a call that was sent is not sealed", async () => {
  const call = await callOf(tools, "create")
  await execute(tools, call)
  expect(await seal(call)).toMatchObject({
    sealed: false,
    execution: { state: ExecutionState.SUCCEEDED },
  })
})

it("an owner that was overtaken seals nothing", async () => {
  const call = await callOf(tools, "create")
  await execute(tools, { ...call, request: { ...call.request, epoch: 2n } })
  const error = await seal(call, 1n).catch((thrown: unknown) => thrown)
  expect(reasonOf(error)).toBe("LEASE_LOST")
})

it("races with the request: either it ran and is not sealed, or it never runs", async () => {
  const ended = await Promise.all(
    Array.from({ length: 40 }, async () => {
      const call = await callOf(tools, "create")
      const [{ sealed }] = await Promise.all([seal(call), execute(tools, call).catch(() => {})])
      expect(tools.provider.effects.has(call.request.idempotencyKey)).toBe(!sealed)
      return sealed
    }),
  )
  expect(new Set(ended).size).toBeGreaterThan(0)
})
