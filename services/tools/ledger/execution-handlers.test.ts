/**
 * Execution over the local transport on a real database: what reaches the provider, how often, and
 * what the ledger says of it, by effect class and by fault.
 */
import { Code, ConnectError } from "@connectrpc/connect"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { BadRequestSchema, RetryInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { digestOfStruct } from "../../../mesh/canonical.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { FakeProvider, result } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import {
  callOf,
  execute,
  type Started,
  someone,
  standardTools,
  startTools,
} from "../tools-harness.ts"

let tools: Started
let provider: FakeProvider

beforeAll(async () => {
  tools = await startTools()
  provider = tools.provider
})

beforeEach(() => {
  const fresh = new FakeProvider()
  provider.tools = [...standardTools]
  provider.answer = fresh.answer
  provider.before = fresh.before
  provider.outcome = fresh.outcome
  provider.outcomesAsked = 0
  provider.sendings.length = 0
  provider.effects.clear()
})

afterAll(() => tools[Symbol.asyncDispose]())

describe("Execute", () => {
  it("sends a call once, for the same actor, and replays its outcome", async () => {
    const call = await callOf(tools, "create")
    const first = await execute(tools, call)
    expect(first).toMatchObject({
      replayed: false,
      execution: { state: ExecutionState.SUCCEEDED, attempts: 1, outcome: { value: { ok: true } } },
    })
    const again = await execute(tools, call)
    expect(again).toEqual({ ...first, replayed: true })
    expect(provider.sendings).toHaveLength(1)
    expect(await tools.rowOf(call)).toMatchObject({ state: "succeeded", attempts: 1 })
    const [sent] = provider.sendings
    expect(sent?.caller).toMatchObject({ ...call.subject, issuer: "tools" })
    expect(sent?.caller.call).toBeUndefined()
    expect(sent?.request).toMatchObject({ tool: "create", arguments: { text: "hello" } })
  })

  it("keeps what a call used up with its outcome, also with an error, and tells repeats the same", async () => {
    const usage = { inputTokens: 1_200n, outputTokens: 30n, costMicros: 2n ** 63n }
    const error = { case: "error" as const, value: { reason: "too_long", message: "No." } }
    for (const outcome of [result({ ok: true }).outcome, error]) {
      provider.answer = () => ({ outcome, usage }) as never
      const call = await callOf(tools, "create")
      const first = await execute(tools, call)
      expect(first.execution?.usage).toMatchObject({
        ...{ inputTokens: 1_200n, outputTokens: 30n },
        costMicros: 10n ** 12n,
      })
      expect(await execute(tools, call)).toEqual({ ...first, replayed: true })
    }
  })

  it("records the tool's own error as FAILED, and nothing a provider says about `applied`", async () => {
    provider.answer = () => ({
      outcome: {
        case: "error",
        value: {
          reason: "project_not_found",
          message: "No\0 such project.",
          metadata: { applied: "false", project: "p1" },
        },
      },
    })
    const { execution } = await execute(tools, await callOf(tools, "create"))
    expect(execution).toMatchObject({
      state: ExecutionState.FAILED,
      outcome: {
        case: "error",
        value: {
          reason: "project_not_found",
          message: "No such project.",
          metadata: { project: "p1" },
        },
      },
    })
  })

  it("makes one effect of 64 requests for one key, on two replicas", async () => {
    provider.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 50))
      return result({ ok: true })
    }
    const replica = { execution: await tools.replica() }
    const call = await callOf(tools, "fire")
    const answers = await Promise.allSettled(
      Array.from({ length: 64 }, (_, index) => execute(index % 2 === 0 ? tools : replica, call)),
    )
    expect(provider.sendings).toHaveLength(1)
    const failures = answers.filter((one) => one.status === "rejected").map((one) => one.reason)
    expect(new Set(failures.map(reasonOf))).toEqual(new Set(["IDEMPOTENCY_IN_PROGRESS"]))
    const [failure] = failures
    expect(failure.code).toBe(Code.Aborted)
    expect(failure.findDetails(RetryInfoSchema)).toHaveLength(1)
    expect((await execute(replica, call)).replayed).toBe(true)
  })

  it("refuses another request under the same key", async () => {
    const call = await callOf(tools, "create")
    await execute(tools, call)
    const args = { text: "other" }
    const other = { ...call.request, arguments: args, argumentsDigest: digestOfStruct(args) }
    await expectReason(execute(tools, { ...call, request: other }), "IDEMPOTENCY_CONFLICT")
    const step = { ...call.request, stepIndex: 1 }
    await expectReason(execute(tools, { ...call, request: step }), "IDEMPOTENCY_CONFLICT")
    expect(provider.sendings).toHaveLength(1)
  })

  it("keeps the keys of two workspaces apart", async () => {
    const call = await callOf(tools, "create")
    const other = someone()
    await execute(tools, call)
    const theirs = { ...call.request, workspaceId: other.workspaceId }
    const answer = await execute(tools, { subject: other, request: theirs })
    expect(answer.replayed).toBe(false)
    const { workspaceId } = someone()
    const { tool, idempotencyKey } = call.request
    const foreign = someone(workspaceId)
    await expectReason(
      tools.execution.getExecution({ workspaceId, tool, idempotencyKey }, actingAs(foreign)),
      "NOT_FOUND",
    )
  })

  it("refuses a token that names no call, or another one, and arguments of another digest", async () => {
    const call = await callOf(tools, "create")
    const { subject, request } = call
    await expectReason(tools.execution.execute(request, actingAs(subject)), "DIGEST_MISMATCH")
    const forged = [{ runId: newId() }, { stepIndex: 7 }, { digest: digestOfStruct({}) }]
    for (const claims of forged) {
      await expectReason(execute(tools, call, { claims }), "DIGEST_MISMATCH")
    }
    const swapped = { ...request, arguments: { text: "swapped" } }
    await expectReason(execute(tools, { subject, request: swapped }), "DIGEST_MISMATCH")
    expect(provider.sendings).toHaveLength(0)
    expect(await tools.rowOf(call)).toBeUndefined()
  })

  it("refuses arguments that break the schema, naming each place, and records nothing", async () => {
    const call = await callOf(tools, "create", { text: 5, count: "many", extra: true })
    const error = await expectReason(execute(tools, call), "TOOL_ARGUMENTS_INVALID")
    const [detail] = error.findDetails(BadRequestSchema)
    expect(detail?.fieldViolations.map(({ field }) => field).sort()).toEqual([
      "arguments",
      "arguments/count",
      "arguments/text",
    ])
    const { workspaceId, definitionDigest, arguments: args } = call.request
    await expectReason(
      tools.execution.validateArguments(
        { workspaceId, definitionDigest, arguments: args },
        actingAs(call.subject),
      ),
      "TOOL_ARGUMENTS_INVALID",
    )
    expect(await tools.rowOf(call)).toBeUndefined()
  })

  it("refuses a digest that the tool never had", async () => {
    const call = await callOf(tools, "create")
    const fire = await callOf(tools, "fire")
    for (const definitionDigest of ["0".repeat(64), fire.request.definitionDigest]) {
      const request = { ...call.request, definitionDigest }
      await expectReason(execute(tools, { ...call, request }), "UNKNOWN_TOOL")
    }
  })

  it("refuses the owner of a run that was overtaken", async () => {
    const call = await callOf(tools, "create")
    await execute(tools, { ...call, request: { ...call.request, epoch: 5n } })
    const late = { ...call.request, epoch: 4n }
    await expectReason(execute(tools, { ...call, request: late }), "LEASE_LOST")
    const nextStep = { ...late, stepIndex: 1, idempotencyKey: `${late.runId}/1` }
    await expectReason(execute(tools, { ...call, request: nextStep }), "LEASE_LOST")
    expect(provider.sendings).toHaveLength(1)
  })
})

describe("a refusal before any effect", () => {
  it.each(["look", "create", "fire"])("ends %s FAILED, not unknown", async (name) => {
    provider.before = () => {
      throw new RunwardenError("UNKNOWN_TOOL", { tool: name })
    }
    const { execution } = await execute(tools, await callOf(tools, name))
    expect(execution).toMatchObject({
      state: ExecutionState.FAILED,
      attempts: 1,
      outcome: { value: { reason: "not_executed", metadata: { applied: "false" } } },
    })
  })
})

describe("an answer that cannot be used", () => {
  const unusable = [
    { title: "breaks the schema", answer: { ok: "yes" }, reason: "result_invalid" },
    {
      title: "is too large",
      answer: { ok: true, padding: "x".repeat(5_000) },
      reason: "result_too_large",
    },
    { title: "holds NUL", answer: { ok: true, padding: "\0" }, reason: "result_invalid" },
    {
      title: "holds half a character",
      answer: { ok: true, padding: "\ud800" },
      reason: "result_invalid",
    },
    { title: "holds no number", answer: { ok: true, n: Number.NaN }, reason: "result_invalid" },
  ]
  it.each(unusable)("FAILED, when it $title, saying that the effect happened", async (one) => {
    provider.answer = () => result(one.answer)
    const { execution } = await execute(tools, await callOf(tools, "fire"))
    expect(execution).toMatchObject({
      state: ExecutionState.FAILED,
      outcome: { value: { reason: one.reason, metadata: { applied: "true" } } },
    })
  })

  it("keeps an escaped NUL, which is only text", async () => {
    provider.answer = () => result({ ok: true, padding: "\\u0000" })
    const { execution } = await execute(tools, await callOf(tools, "create"))
    expect(execution?.outcome.value).toEqual({ ok: true, padding: "\\u0000" })
  })
})

async function expectReason(answer: Promise<unknown>, reason: string): Promise<ConnectError> {
  const error = await answer.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(reasonOf(error)).toBe(reason)
  if (!(error instanceof ConnectError)) throw new Error("no status")
  return error
}
