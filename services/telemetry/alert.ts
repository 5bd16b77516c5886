/**
 * When alerts fire and when they are over: pure, no clock, no ids.
 *
 * States: open, acknowledged, resolved. Events: acknowledge, resolve.
 *
 * Invariants:
 * 1. An alert fires when its figure reaches the threshold on at least the minimum sample.
 * 2. It is over when the figure falls below the clear level, which is lower than the threshold, or
 *    when there is nothing left to measure. In between it stays: a figure that swings around its
 *    threshold makes one alert, not many.
 * 3. Per code there is at most one alert that is not resolved; resolved is terminal.
 */
import { illegalTransition } from "../../mesh/errors.ts"

export type AlertState = "open" | "acknowledged" | "resolved"
export type AlertEvent = "acknowledge" | "resolve"
export type AlertSeverity = "p1" | "p2"

/** Every alert there is: its code, and the name of its threshold in the configuration. */
export const alertKinds = {
  run_failure_rate_high: { severity: "p1", threshold: "p1RunFailureRate" },
  outcome_unknown_open: { severity: "p1", threshold: "p1OutcomeUnknownOpen" },
  moderation_unavailable: { severity: "p1", threshold: "p1ModerationUnavailable" },
  tool_failure_rate_high: { severity: "p2", threshold: "p2ToolFailureRate" },
  run_latency_p95_high: { severity: "p2", threshold: "p2RunLatencyP95Ms" },
  moderation_block_rate_high: { severity: "p2", threshold: "p2ModerationBlockRate" },
  approval_wait_p95_high: { severity: "p2", threshold: "p2ApprovalWaitP95Ms" },
  policy_denial_spike: { severity: "p2", threshold: "p2PolicyDenialSpike" },
} as const satisfies Readonly<Record<string, { severity: AlertSeverity; threshold: string }>>

export type AlertCode = keyof typeof alertKinds
export type ThresholdName = (typeof alertKinds)[AlertCode]["threshold"]

export const alertCodes = Object.keys(alertKinds) as readonly AlertCode[]

export interface Threshold {
  readonly value: number
  readonly minimumSample: number
}

export interface AlertRules {
  readonly thresholds: Readonly<Record<ThresholdName, Threshold>>
  /** The clear level as a part of the threshold, below 1. */
  readonly clearRatio: number
}

/** A figure, and how many things it was computed from. */
export interface Reading {
  readonly value: number
  readonly sample: number
}

export type Readings = Readonly<Record<AlertCode, Reading>>

export type AlertChange =
  | { readonly kind: "fire"; readonly code: AlertCode; readonly reading: Reading }
  | { readonly kind: "read"; readonly code: AlertCode; readonly reading: Reading }
  | { readonly kind: "resolve"; readonly code: AlertCode; readonly reading: Reading }

/** What is to be done with the alerts of a workspace, given which of them are live. */
export function evaluate(
  rules: AlertRules,
  readings: Readings,
  live: ReadonlySet<AlertCode>,
): readonly AlertChange[] {
  return alertCodes.flatMap((code): AlertChange[] => {
    const reading = readings[code]
    const threshold = rules.thresholds[alertKinds[code].threshold]
    if (!live.has(code)) return fires(threshold, reading) ? [{ kind: "fire", code, reading }] : []
    const isOver = reading.sample === 0 || reading.value < clearLevel(rules, code)
    return [{ kind: isOver ? "resolve" : "read", code, reading }]
  })
}

/** Below this value the alert of this code is over. */
export function clearLevel(rules: AlertRules, code: AlertCode): number {
  return rules.thresholds[alertKinds[code].threshold].value * rules.clearRatio
}

const transitions = {
  open: { acknowledge: "acknowledged", resolve: "resolved" },
  acknowledged: { resolve: "resolved" },
  resolved: {},
} as const satisfies Readonly<Record<AlertState, Readonly<Partial<Record<AlertEvent, AlertState>>>>>

/** The state after the event, or ILLEGAL_TRANSITION. */
export function transition(state: AlertState, event: AlertEvent): AlertState {
  const next: Readonly<Partial<Record<AlertEvent, AlertState>>> = transitions[state]
  const target = next[event]
  if (target !== undefined) return target
  const requested = event === "acknowledge" ? "acknowledged" : "resolved"
  throw illegalTransition("alert", state, requested, Object.values(next))
}

/** One sentence for people. */
export function describe(alert: {
  readonly code: string
  readonly value: number
  readonly sample: number
  readonly thresholdName: string
  readonly threshold: number
}): string {
  const { code, value, sample, thresholdName, threshold } = alert
  const known = alertCodes.find((each) => each === code)
  const what = known === undefined ? code : sentences[known](show(value), sample)
  return `${what}; the threshold ${thresholdName} is ${show(threshold)}.`
}

const sentences: Readonly<Record<AlertCode, (value: string, sample: number) => string>> = {
  run_failure_rate_high: (value, n) => `A part of ${value} of ${n} ended runs failed by a fault`,
  outcome_unknown_open: (value) =>
    `Tool calls with an unknown outcome wait to be settled: ${value}`,
  moderation_unavailable: (value, n) => `Moderation could not be had for ${value} of ${n} subjects`,
  tool_failure_rate_high: (value, n) => `A part of ${value} of ${n} executed tool calls failed`,
  run_latency_p95_high: (value, n) => `The slowest 5 % of ${n} runs took ${value} ms or more`,
  moderation_block_rate_high: (value, n) =>
    `Moderation blocked a part of ${value} of ${n} subjects`,
  approval_wait_p95_high: (value, n) =>
    `The slowest 5 % of ${n} approvals took ${value} ms or more`,
  policy_denial_spike: (value, n) => `${n} runs were denied by policy, ${value} times the usual`,
}

function fires(threshold: Threshold, reading: Reading): boolean {
  return reading.sample >= threshold.minimumSample && reading.value >= threshold.value
}

function show(value: number): string {
  return String(Math.round(value * 1000) / 1000)
}
