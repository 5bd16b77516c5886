import {
  type Attributes,
  type Context,
  context,
  isSpanContextValid,
  type Link,
  propagation,
  type Span,
  type SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from "@opentelemetry/api"
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks"
import { W3CTraceContextPropagator } from "@opentelemetry/core"
import { resourceFromAttributes } from "@opentelemetry/resources"
import {
  BatchSpanProcessor,
  RandomIdGenerator,
  type SpanExporter,
  TracerProvider,
} from "@opentelemetry/sdk-trace"
import { z } from "zod"
import { reasonOf } from "./errors.ts"

/** A service's tracer and what ends it. */
export interface Tracing extends AsyncDisposable {
  readonly tracer: Tracer
}

const flushTimeoutMs = 3_000

/** What is read from the environment about traces. */
export const traceSettings = {
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url().optional(),
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
}

/**
 * Makes the tracer of one service. Spans always have ids, so that runs and logs can name their
 * trace; without an exporter they are nothing but those ids. Of the traces that begin here, `share`
 * (all, if not given) is recorded; one that came in is recorded where its caller records it. Each
 * service has a provider of its own, so that several in one process keep their names.
 */
export function createTracing(service: string, exporter?: SpanExporter, share = 1): Tracing {
  useAsyncContext()
  if (exporter === undefined) return { tracer: unrecorded, async [Symbol.asyncDispose]() {} }
  const provider = new TracerProvider({
    resource: resourceFromAttributes({
      "service.name": `runwarden-${service}`,
      "service.namespace": "runwarden",
    }),
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  })
  return {
    tracer: sampling(provider.getTracer("runwarden"), share),
    async [Symbol.asyncDispose]() {
      // A collector that is away must not hold up the end of the process, nor fail it.
      const ended = provider.shutdown().catch(() => undefined)
      const { promise: timedOut, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, flushTimeoutMs)
      await Promise.race([ended, timedOut])
      clearTimeout(timer)
    },
  }
}

const ids = new RandomIdGenerator()

/**
 * A tracer whose spans nobody will see: a trace has its id, and so does where it came in, but within
 * it spans are all the same, so that what a service that does record hangs below is one that exists.
 */
const unrecorded = tracerOf((_, options, parentContext) => {
  const parent = parentOf(options, parentContext)
  if (parent === undefined) return namedSpan(TraceFlags.SAMPLED)
  return parent.isRecording() ? trace.wrapSpanContext(parent.spanContext()) : parent
})

/** Records a share of the traces that begin here, whole, and follows the caller in all others. */
function sampling(recorded: Tracer, share: number): Tracer {
  return tracerOf((name, options, parentContext) => {
    const parent = parentOf(options, parentContext)
    if (parent === undefined) {
      return Math.random() < share
        ? recorded.startSpan(name, options, parentContext)
        : namedSpan(TraceFlags.NONE)
    }
    return (parent.spanContext().traceFlags & TraceFlags.SAMPLED) === 0
      ? parent
      : recorded.startSpan(name, options, parentContext)
  })
}

function tracerOf(
  start: (name: string, options: SpanStart, parentContext: Context) => Span,
): Tracer {
  const startSpan: Tracer["startSpan"] = (name, options = {}, parentContext = context.active()) =>
    start(name, options, parentContext)
  return {
    startSpan,
    startActiveSpan(name: string, ...rest: readonly unknown[]) {
      const work = rest.at(-1) as (span: Span) => never
      const parent = (rest[2] === undefined ? context.active() : rest[1]) as Context
      const span = startSpan(name, rest.length > 1 ? (rest[0] as SpanStart) : {}, parent)
      return context.with(trace.setSpan(parent, span), () => work(span))
    },
  }
}

function parentOf(options: SpanStart, parentContext: Context): Span | undefined {
  const parent = options.root === true ? undefined : trace.getSpan(parentContext)
  return parent !== undefined && isSpanContextValid(parent.spanContext()) ? parent : undefined
}

/** A span that is nothing but its ids, in a trace of its own. */
function namedSpan(traceFlags: TraceFlags): Span {
  const traceId = ids.generateTraceId()
  return trace.wrapSpanContext({ traceId, spanId: ids.generateSpanId(), traceFlags })
}

/**
 * The OTLP exporter for a collector's base URL, as in `OTEL_EXPORTER_OTLP_ENDPOINT`; undefined for
 * none. Loaded only when asked for.
 */
export async function createOtlpExporter(
  endpoint: string | undefined,
): Promise<SpanExporter | undefined> {
  if (endpoint === undefined || endpoint === "") return undefined
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-http")
  return new OTLPTraceExporter({
    url: `${endpoint.replace(/\/$/, "")}/v1/traces`,
    timeoutMillis: flushTimeoutMs,
  })
}

/** What a span starts with. */
export interface SpanStart {
  readonly kind?: SpanKind
  readonly attributes?: Attributes
  readonly links?: Link[]
  /** Starts a new trace instead of a child of the active span. */
  readonly root?: boolean
}

/** Runs `work` inside a span that ends with it; a failure sets `error.type` to its reason. */
export async function inSpan<T>(
  tracer: Tracer,
  name: string,
  start: SpanStart,
  work: (span: Span) => Promise<T>,
): Promise<T> {
  const span = tracer.startSpan(name, start)
  try {
    return await context.with(trace.setSpan(context.active(), span), () => work(span))
  } catch (error) {
    failSpan(span, error)
    throw error
  } finally {
    span.end()
  }
}

/** Marks a span as failed, by the reason of the error and never by its message. */
export function failSpan(span: Span, error: unknown): void {
  span.setAttribute("error.type", reasonOf(error)?.toLowerCase() ?? "internal")
  span.setStatus({ code: SpanStatusCode.ERROR })
}

/** The trace id (hex) of the active span; empty where there is none. */
export function activeTraceId(): string {
  return trace.getActiveSpan()?.spanContext().traceId ?? ""
}

/** Writes the active trace context into the headers of an outgoing call. */
export function injectTrace(headers: Headers): void {
  propagation.inject(context.active(), headers, {
    set: (carrier, key, value) => carrier.set(key, value),
  })
}

/** The trace context that the headers of an incoming call carry, on top of the active one. */
export function extractTrace(headers: Headers): ReturnType<typeof context.active> {
  return propagation.extract(context.active(), headers, {
    get: (carrier, key) => carrier.get(key) ?? undefined,
    keys: (carrier) => [...carrier.keys()],
  })
}

let isAsyncContextUsed = false

function useAsyncContext(): void {
  if (isAsyncContextUsed) return
  isAsyncContextUsed = true
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
}
