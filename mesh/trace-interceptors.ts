import type { DescMethod } from "@bufbuild/protobuf"
import type { Interceptor } from "@connectrpc/connect"
import { type Context, context, type Span, SpanKind, type Tracer, trace } from "@opentelemetry/api"
import { methodName } from "./method-chain.ts"
import type { Runtime } from "./service.ts"
import { extractTrace, failSpan, injectTrace, type SpanStart } from "./tracing.ts"
import { watch } from "./watch-call.ts"

type Answer = Awaited<ReturnType<ReturnType<Interceptor>>>

/**
 * What brings trace and identity from one side to the other: the headers of a call or, within a
 * process, the asynchronous context and the values of the call.
 */
export type Carrier = "headers" | "process"

/** A span around each call that comes in, below the one that its caller names. */
export function serverTraceInterceptor(runtime: Runtime, carrier: Carrier): Interceptor {
  return (next) => (request) => {
    const parent = carrier === "process" ? context.active() : extractTrace(request.header)
    const { name, attributes } = labelsOf(request.method)
    const start = { kind: SpanKind.SERVER, attributes }
    return within(runtime.tracer.startSpan(name, start, parent), parent, () => next(request))
  }
}

/** A span around each call that goes out, and its name for whoever is called. */
export function clientTraceInterceptor(
  runtime: Runtime,
  audience: string,
  carrier: Carrier,
): Interceptor {
  return (next) => (request) => {
    const parent = context.active()
    const { name, attributes } = labelsOf(request.method)
    const start = {
      kind: SpanKind.CLIENT,
      attributes: { ...attributes, "server.address": audience },
    }
    return within(runtime.tracer.startSpan(name, start, parent), parent, () => {
      if (carrier === "headers") injectTrace(request.header)
      return next(request)
    })
  }
}

/** The same for a call that is one promise, however it came here. */
export async function inCallSpan<T>(
  tracer: Tracer,
  name: string,
  start: SpanStart,
  parent: Context,
  call: () => Promise<T>,
): Promise<T> {
  const span = tracer.startSpan(name, start, parent)
  const active = trace.getSpan(parent) === span ? parent : trace.setSpan(parent, span)
  const started = context.active() === active ? call() : context.with(active, call)
  if (!span.isRecording()) return started
  try {
    return await started
  } catch (error) {
    failSpan(span, error)
    throw error
  } finally {
    span.end()
  }
}

/** Makes a call with the span active, and ends the span with the call where anybody will see it. */
function within(span: Span, parent: Context, call: () => Promise<Answer>): Promise<Answer> {
  const active = trace.getSpan(parent) === span ? parent : trace.setSpan(parent, span)
  if (!span.isRecording()) return context.active() === active ? call() : context.with(active, call)
  return context.with(active, () =>
    watch(call(), {
      failed: (error) => failSpan(span, error),
      ended: () => span.end(),
    }),
  )
}

/** What a call is called in traces and logs, made once per method. */
export interface Labels {
  readonly name: string
  readonly attributes: Readonly<Record<string, string>>
}

const knownLabels = new WeakMap<DescMethod, Labels>()

/** The name of a method in traces and logs, and its attributes there. */
export function labelsOf(method: DescMethod): Labels {
  let labels = knownLabels.get(method)
  if (labels === undefined) {
    const name = methodName(method)
    labels = { name, attributes: { "rpc.system.name": "grpc", "rpc.method": name } }
    knownLabels.set(method, labels)
  }
  return labels
}
