import { timestampDate } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import type { Metrics } from "../gen/runwarden/telemetry/v1/metrics_pb.ts"
import {
  GetMetricsResponseSchema,
  MetricsService,
  QueryTimeSeriesResponseSchema,
} from "../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { type Cli, type Context, command } from "./command.ts"
import { localTime, readSeconds, spanText } from "./time-text.ts"

interface WindowOptions {
  readonly window: string
  readonly step?: string
}

export function metricsCommands(cli: Cli): Command {
  const metrics = command<WindowOptions>(cli, "metrics", "how the runs of the workspace go", {
    examples: ["metrics", "metrics --window 1h", "metrics series --window 24h --step 1h"],
    configure: withWindow,
    action: showMetrics,
  })
  metrics.addCommand(
    command<WindowOptions>(cli, "series", "the same figures by steps, oldest first", {
      examples: ["metrics series", "metrics series --window 7d --step 1d -o json"],
      configure: (made) =>
        withWindow(made).option("--step <length>", "length of a step, at most 1d", "1h"),
      action: showSeries,
    }),
  )
  return metrics
}

function withWindow(made: Command): Command {
  return made.option("--window <length>", "such as 15m, 24h or 7d; at most 31d", "24h")
}

async function showMetrics(context: Context, options: WindowOptions): Promise<void> {
  const { out } = context
  const windowSeconds = readSeconds(options.window, "--window")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(MetricsService)
    .getMetrics({ workspaceId, windowSeconds }, session.options)
  out.message(GetMetricsResponseSchema, response, () => {
    if (response.metrics !== undefined) out.details(figures(response.metrics))
  })
}

async function showSeries(context: Context, options: WindowOptions): Promise<void> {
  const { out } = context
  const windowSeconds = readSeconds(options.window, "--window")
  const stepSeconds = readSeconds(options.step ?? "1h", "--step")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(MetricsService)
    .queryTimeSeries({ workspaceId, windowSeconds, stepSeconds }, session.options)
  out.message(QueryTimeSeriesResponseSchema, response, () => {
    out.table(
      [
        "FROM",
        "RUNS",
        "SUCCESS",
        "P95",
        "CALLS",
        "TOOL FAILURES",
        "VERDICTS",
        "BLOCKED",
        "FLAGGED",
      ],
      response.points.map((point) => [
        point.startTime === undefined ? "" : localTime(timestampDate(point.startTime)),
        String(total(point.runsByState)),
        part(point.runSuccessRate),
        duration(point.runLatencyP95Millis),
        String(total(point.toolCallsByState)),
        part(point.toolFailureRate),
        String(point.moderationCount ?? 0),
        String(point.moderationBlockedCount ?? 0),
        String(point.moderationFlaggedCount ?? 0),
      ]),
      "No figures.",
    )
  })
}

function figures(metrics: Metrics): readonly (readonly [string, string])[] {
  const { startTime, endTime } = metrics
  const from = startTime === undefined ? "" : localTime(timestampDate(startTime))
  const to = endTime === undefined ? "" : localTime(timestampDate(endTime))
  return [
    ["window", `${from} to ${to}`],
    ["runs", byName(metrics.runsByState)],
    ["failed for", byName(metrics.failedRunsByReason)],
    ["waiting for", byName(metrics.waitingRunsByReason)],
    ["run success rate", part(metrics.runSuccessRate)],
    ["run failure rate", part(metrics.runFailureRate)],
    ["run latency p50", duration(metrics.runLatencyP50Millis)],
    ["run latency p95", duration(metrics.runLatencyP95Millis)],
    ["tool calls", byName(metrics.toolCallsByState)],
    ["tool failure rate", part(metrics.toolFailureRate)],
    ["verdicts", String(metrics.moderationCount ?? 0)],
    ["  blocked", String(metrics.moderationBlockedCount ?? 0)],
    ["  flagged", String(metrics.moderationFlaggedCount ?? 0)],
    ["  unavailable", String(metrics.moderationUnavailableCount ?? 0)],
    ["block rate", part(metrics.moderationBlockRate)],
    ["policy denials", String(metrics.policyDenialCount ?? 0)],
    ["approvals", byName(metrics.approvalsByState)],
    ["approval wait p50", duration(metrics.approvalWaitP50Millis)],
    ["approval wait p95", duration(metrics.approvalWaitP95Millis)],
    ["outcome unknown", String(metrics.outcomeUnknownOpen ?? 0)],
    ["tokens read", String(metrics.inputTokens ?? 0n)],
    ["tokens written", String(metrics.outputTokens ?? 0n)],
    ["cost", String(Number(metrics.costMicros ?? 0n) / 1e6)],
    ["budget warnings", byName(metrics.budgetWarningsByName)],
  ]
}

function byName(counts: Readonly<Record<string, number>>): string {
  const entries = Object.entries(counts).sort(([one], [other]) => (one < other ? -1 : 1))
  return entries.length === 0 ? "none" : entries.map(([name, n]) => `${n} ${name}`).join(", ")
}

function total(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}

function part(value: number | undefined): string {
  return value === undefined ? "–" : `${(value * 100).toFixed(1)} %`
}

function duration(ms: number | undefined): string {
  if (ms === undefined) return "–"
  return ms < 60_000 ? `${(ms / 1000).toFixed(2)} s` : spanText(ms)
}
