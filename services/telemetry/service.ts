/**
 * The telemetry service: events in, metrics and alerts out.
 *
 * event-check.ts        which events can be stored
 * run-record.ts         what is known of one run from its events, pure
 * event-entry.ts        what is kept of an event
 * event-recorder.ts     takes events in: into the records of their runs
 * record-store.ts, record-codec.ts   the one statement that stores records, and their bytes
 * metrics.ts            what the figures mean, pure
 * metrics-store.ts      the counts, in SQL
 * alert.ts, readings.ts when alerts fire and are over, pure
 * alert-store.ts, evaluation-store.ts   alerts, and whose turn it is to be looked at
 * retention-store.ts    deletes what is past retention
 * alert-evaluator.ts    looks at workspaces after events and by a timer
 * event-handlers.ts, metrics-handlers.ts, alert-handlers.ts   the RPCs
 */
import { fileURLToPath } from "node:url"
import { AlertService } from "../../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { createEvaluator } from "./alert-evaluator.ts"
import { alertHandlers } from "./alert-handlers.ts"
import { readConfig, type TelemetryConfig } from "./config.ts"
import { eventHandlers } from "./event-handlers.ts"
import { metricsHandlers } from "./metrics-handlers.ts"

export interface TelemetryDeps {
  readonly runtime: Runtime
  /** Milliseconds of the epoch; the machine's clock unless a test brings its own. */
  readonly now?: () => number
}

const migrations = fileURLToPath(new URL("./migrations", import.meta.url))

/** 5,000 events of a usual size fit. */
const readLimits = { [`${EventService.typeName}/BatchRecordEvents`]: 1024 * 1024 }

export const telemetryModule: ServiceModule<TelemetryConfig> = {
  name: "telemetry",
  readLimits,
  readConfig,
  create: (config, runtime) => createTelemetry(config, { runtime }),
}

/** Creates the service. Nothing connects before `start`. */
export function createTelemetry(config: TelemetryConfig, deps: TelemetryDeps): Service {
  const { runtime, now = Date.now } = deps
  const stack = new AsyncDisposableStack()
  const database = stack.use(openDatabase(config.database, { runtime, migrations }))
  const evaluator = stack.use(
    createEvaluator({
      database,
      runtime,
      config: config.alerts,
      retentionMs: config.retentionMs,
      now,
    }),
  )
  return {
    routes: [
      route(EventService, eventHandlers({ database, evaluator })),
      route(MetricsService, metricsHandlers({ database, now })),
      route(AlertService, alertHandlers({ database })),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      evaluator.start()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
