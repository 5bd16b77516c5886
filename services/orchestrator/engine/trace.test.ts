import type { ReadableSpan, SpanExporter } from "@opentelemetry/sdk-trace"
import { afterAll, beforeAll, expect, it } from "vitest"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { testRuntime, until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"

const spans: ReadableSpan[] = []
const exporter: SpanExporter = {
  export(batch, done) {
    spans.push(...batch)
    done({ code: 0 })
  },
  shutdown: async () => {},
}
let orchestrator: Orchestrator
const peers = createPeers()

beforeAll(async () => {
  const runtime = testRuntime("orchestrator", exporter)
  orchestrator = await startOrchestrator({ peers, runtime })
})
afterAll(async () => {
  await orchestrator[Symbol.asyncDispose]()
})

it("a run that waited goes on in a new trace that links to its first", async () => {
  const me = inWorkspace(orchestrator)
  const secret = "arguments-stay-out"
  const run = await me.start([
    { tool: "low.keyed", arguments: { secret } },
    { tool: "high.keyed", arguments: { secret } },
  ])
  await me.decide(await me.pendingApproval(run.runId))
  await me.reaches(run.runId, RunState.SUCCEEDED)
  const own = await until(
    () => {
      const found = spans.filter(({ attributes }) => attributes["runwarden.run.id"] === run.runId)
      return found.length === 4 && found
    },
    { timeoutMs: 15_000 },
  )
  const named = (name: string) => own.filter((span) => span.name === name)
  const [first, second] = named("invoke_workflow test").sort(
    (a, b) => a.startTime[0] - b.startTime[0] || a.startTime[1] - b.startTime[1],
  )
  expect(first?.spanContext().traceId).toBe(run.traceId)
  expect(second?.spanContext().traceId).not.toBe(run.traceId)
  expect(second?.parentSpanContext).toBeUndefined()
  expect(second?.links.map(({ context }) => context.traceId)).toEqual([run.traceId])
  const [execution] = named("execute_tool test/high.keyed")
  const [, call] = await me.callsOf(run.runId)
  expect(execution?.spanContext().traceId).toBe(second?.spanContext().traceId)
  expect(execution?.attributes).toMatchObject({
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "test/high.keyed",
    "gen_ai.tool.call.id": call?.toolCallId,
    "gen_ai.conversation.id": run.threadId,
    "runwarden.workspace.id": me.workspaceId,
    "runwarden.tool.version": "1.0.0",
    "runwarden.tool.risk_class": "high",
    "runwarden.policy.version": "test@1",
    "runwarden.verdict": "allowed",
    "runwarden.approval.id": call?.approvalId,
  })
  const said = JSON.stringify(
    spans.map(({ name, attributes, events }) => [name, attributes, events]),
  )
  expect(said).not.toContain(secret)
  expect(said).not.toContain(`${run.runId}/`)
})
