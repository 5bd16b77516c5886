/** Spans below those of the caller, sent to the collector of OTEL_EXPORTER_OTLP_ENDPOINT if any. */
import type { Metadata } from "@grpc/grpc-js"
import { propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api"
import { W3CTraceContextPropagator } from "@opentelemetry/core"
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http"
import { resourceFromAttributes } from "@opentelemetry/resources"
import { BatchSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace"

propagation.setGlobalPropagator(new W3CTraceContextPropagator())

/** Gives what sends the last spans. */
export function exportTraces(endpoint: string | undefined): () => Promise<void> {
  if (!endpoint) return async () => {}
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": "orders" }),
    spanProcessors: [new BatchSpanProcessor({ exporter: new OTLPTraceExporter() })],
  })
  trace.setGlobalTracerProvider(provider)
  return () => provider.shutdown()
}

/** Runs `work` in a span of the trace that the metadata name. */
export async function traced<T>(
  name: string,
  metadata: Metadata,
  work: (traceId: string) => Promise<T>,
): Promise<T> {
  const parent = propagation.extract(ROOT_CONTEXT, metadata, {
    get: (carrier, key) => carrier.get(key).map(String),
    keys: (carrier) => Object.keys(carrier.getMap()),
  })
  const span = trace.getTracer("orders").startSpan(name, { kind: SpanKind.SERVER }, parent)
  try {
    return await work(span.spanContext().traceId)
  } catch (error) {
    span.setStatus({ code: SpanStatusCode.ERROR })
    throw error
  } finally {
    span.end()
  }
}
