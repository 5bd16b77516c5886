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
