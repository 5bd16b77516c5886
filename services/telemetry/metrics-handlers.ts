import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import type { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { toMetrics, unknownOutcomes } from "./metrics.ts"
import { countByStep } from "./metrics-store.ts"

const defaultWindowSeconds = 86_400
const defaultStepSeconds = 3_600

export interface MetricsHandlerDeps {
  readonly database: Database
  readonly now: () => number
}

export function metricsHandlers({ database, now }: MetricsHandlerDeps) {
  return {
    async getMetrics(request, { signal }) {
      const { windowMs, endMs } = windowOf(request, now())
      const span = { startMs: endMs - windowMs, endMs }
      // Without an end the window is open: an event whose clock is a little ahead counts at once.
      const until = request.endTime === undefined ? Number.POSITIVE_INFINITY : endMs
      const query = { startMs: span.startMs, endMs: until, stepMs: Number.POSITIVE_INFINITY }
      const rows = await database.tenant(request.workspaceId, (tx) => countByStep(tx, query), {
        signal,
        name: "get metrics",
        isOneRead: true,
      })
      return { metrics: { ...toMetrics(rows, span), outcomeUnknownOpen: unknownOutcomes(rows) } }
    },

    async queryTimeSeries(request, { signal }) {
      const { windowMs, endMs } = windowOf(request, now())
      const stepMs = (request.stepSeconds || defaultStepSeconds) * 1000
      const startMs = Math.floor((endMs - windowMs) / stepMs) * stepMs
      const steps = Math.ceil((endMs - startMs) / stepMs)
      const query = { startMs, endMs: startMs + steps * stepMs, stepMs }
      const rows = await database.tenant(request.workspaceId, (tx) => countByStep(tx, query), {
        signal,
        name: "query time series",
        isOneRead: true,
      })
      const byStep = Map.groupBy(rows, (row) => row.step)
      return {
        points: Array.from({ length: steps }, (_, step) => {
          const at = startMs + step * stepMs
          return toMetrics(byStep.get(step) ?? [], { startMs: at, endMs: at + stepMs })
        }),
      }
    },
  } satisfies ServiceImpl<typeof MetricsService>
}

function windowOf(
  request: { readonly windowSeconds: number; readonly endTime?: Timestamp | undefined },
  nowMs: number,
): { readonly windowMs: number; readonly endMs: number } {
  const endMs = request.endTime === undefined ? nowMs : timestampMs(request.endTime)
  return { windowMs: (request.windowSeconds || defaultWindowSeconds) * 1000, endMs }
}
