import { z } from "zod"
import { type Environment, milliseconds, readAll, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"
import type { AlertRules, ThresholdName } from "./alert.ts"

export interface AlertConfig {
  readonly rules: AlertRules
  /** Length of the window that the figures of alerts are of. */
  readonly windowMs: number
  /** How soon after an event its workspace is looked at. */
  readonly debounceMs: number
  /** How often a workspace with recent events or live alerts is looked at. */
  readonly intervalMs: number
  /** How often the timer asks what is due. */
  readonly pollMs: number
}

export interface TelemetryConfig {
  readonly database: DatabaseConfig
  readonly alerts: AlertConfig
  /** How long events, and the figures of them, are kept. */
  readonly retentionMs: number
}

const part = z.coerce.number().gt(0).max(1)
const positive = z.coerce.number().gt(0)
const count = z.coerce.number().int().min(1)

/** Per threshold: its variable, its default, and the sample it needs. `…_MIN_SAMPLE` sets the latter. */
const thresholds = {
  p1RunFailureRate: ["TELEMETRY_ALERT_P1_RUN_FAILURE_RATE", part.default(0.2), 20],
  p1OutcomeUnknownOpen: ["TELEMETRY_ALERT_P1_OUTCOME_UNKNOWN_OPEN", count.default(1), 1],
  p1ModerationUnavailable: ["TELEMETRY_ALERT_P1_MODERATION_UNAVAILABLE", count.default(1), 1],
  p2ToolFailureRate: ["TELEMETRY_ALERT_P2_TOOL_FAILURE_RATE", part.default(0.2), 20],
  p2RunLatencyP95Ms: ["TELEMETRY_ALERT_P2_RUN_LATENCY_P95_MS", positive.default(300_000), 20],
  p2ModerationBlockRate: ["TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE", part.default(0.25), 20],
  p2ApprovalWaitP95Ms: ["TELEMETRY_ALERT_P2_APPROVAL_WAIT_P95_MS", positive.default(3_600_000), 5],
  p2PolicyDenialSpike: ["TELEMETRY_ALERT_P2_POLICY_DENIAL_SPIKE", positive.default(3), 10],
} as const satisfies Readonly<Record<ThresholdName, readonly [string, z.ZodType<number>, number]>>

export function readConfig(env: Environment): TelemetryConfig {
  const [database, alerts, { TELEMETRY_RETENTION_DAYS: days }] = readAll(
    () => readDatabaseConfig("telemetry", env),
    () => readAlertConfig(env),
    // The longest window of a question is 31 days.
    () => readEnv({ TELEMETRY_RETENTION_DAYS: count.max(3_650).default(35) }, env),
  )
  return { database, alerts, retentionMs: days * 86_400_000 }
}

/** The alert configuration alone: windows and thresholds, each with its default. */
export function readAlertConfig(env: Environment): AlertConfig {
  const [times, values, samples] = readAll(
    () =>
      readEnv(
        {
          TELEMETRY_ALERT_WINDOW_MS: milliseconds.default(15 * 60_000),
          TELEMETRY_ALERT_DEBOUNCE_MS: milliseconds.default(1_000),
          TELEMETRY_ALERT_INTERVAL_MS: milliseconds.default(30_000),
          TELEMETRY_ALERT_POLL_MS: milliseconds.default(5_000),
          TELEMETRY_ALERT_CLEAR_RATIO: z.coerce.number().gt(0).lt(1).default(0.8),
        },
        env,
      ),
    () =>
      readEnv(
        shapeOf(([name, schema]) => [name, schema]),
        env,
      ),
    () =>
      readEnv(
        shapeOf(([name, , sample]) => [minSample(name), count.default(sample)]),
        env,
      ),
  )
  return {
    windowMs: times.TELEMETRY_ALERT_WINDOW_MS,
    debounceMs: times.TELEMETRY_ALERT_DEBOUNCE_MS,
    intervalMs: times.TELEMETRY_ALERT_INTERVAL_MS,
    pollMs: times.TELEMETRY_ALERT_POLL_MS,
    rules: {
      clearRatio: times.TELEMETRY_ALERT_CLEAR_RATIO,
      thresholds: Object.fromEntries(
        Object.entries(thresholds).map(([threshold, [name]]) => [
          threshold,
          { value: values[name], minimumSample: samples[minSample(name)] },
        ]),
      ) as AlertRules["thresholds"],
    },
  }
}

function shapeOf(
  entry: (threshold: (typeof thresholds)[ThresholdName]) => readonly [string, z.ZodType<number>],
): Readonly<Record<string, z.ZodType<number>>> {
  return Object.fromEntries(Object.values(thresholds).map(entry))
}

function minSample(name: string): string {
  return `${name}_MIN_SAMPLE`
}
