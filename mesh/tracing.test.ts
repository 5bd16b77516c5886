// What a trace is where nobody records it: its id, from end to end, and no span of its own.
import { context, trace } from "@opentelemetry/api"
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace"
import { expect, test } from "vitest"
import { activeTraceId, createTracing, inSpan } from "./tracing.ts"

const { tracer: silent } = createTracing("tools")

test("spans that nobody records have the id of their trace, a new one for each root", async () => {
  const ids = await inSpan(silent, "a", {}, async () => [
    activeTraceId(),
    await inSpan(silent, "b", {}, async () => activeTraceId()),
    await inSpan(silent, "c", { root: true }, async () => activeTraceId()),
    silent.startActiveSpan("d", (span) => span.spanContext().traceId),
  ])
  expect(ids[0]).toMatch(/^(?!0{32})[\da-f]{32}$/)
  expect(ids[1]).toBe(ids[0])
  expect(ids[2]).not.toBe(ids[0])
  expect(ids[3]).toBe(ids[0])
  expect(trace.getSpan(context.active())).toBeUndefined()
})

test("what is recorded below a service that does not hangs below the last one that does", async () => {
  const exporter = new InMemorySpanExporter()
  const { tracer, ...tracing } = createTracing("gateway", exporter)
  await inSpan(tracer, "above", {}, () =>
    inSpan(silent, "between", {}, (span) => {
      span.setAttribute("of", "nobody")
      return inSpan(tracer, "below", {}, async () => undefined)
    }),
  )
  // Its own shutdown would forget what it has.
  exporter.shutdown = async () => undefined
  await tracing[Symbol.asyncDispose]()
  const [below, above] = exporter.getFinishedSpans()
  expect(below?.name).toBe("below")
  expect(above?.attributes).toEqual({})
  expect(below?.parentSpanContext?.spanId).toBe(above?.spanContext().spanId)
})

test("of the traces that begin here a share is recorded, whole; others follow their caller", async () => {
  const exporter = new InMemorySpanExporter()
  const { tracer, ...tracing } = createTracing("gateway", exporter, 0.25)
  const below = createTracing("tools", exporter, 0)
  const roots = new Map<string, boolean>()
  for (let index = 0; index < 400; index++) {
    await inSpan(tracer, "root", {}, (root) =>
      inSpan(below.tracer, "child", {}, async (child) => {
        roots.set(activeTraceId(), root.isRecording())
        expect(child.isRecording()).toBe(root.isRecording())
      }),
    )
  }
  exporter.shutdown = async () => undefined
  await tracing[Symbol.asyncDispose]()
  await below[Symbol.asyncDispose]()
  const recorded = [...roots].filter(([, isRecorded]) => isRecorded).map(([id]) => id)
  expect(roots.size).toBe(400)
  expect(recorded.length).toBeGreaterThan(50)
  expect(recorded.length).toBeLessThan(150)
  const spans = exporter.getFinishedSpans()
  expect(spans).toHaveLength(2 * recorded.length)
  expect(new Set(spans.map((span) => span.spanContext().traceId))).toEqual(new Set(recorded))
})
