import fc from "fast-check"
import { expect, test } from "vitest"
import { RunwardenError } from "../../mesh/errors.ts"
import {
  type AlertCode,
  alertCodes,
  alertKinds,
  clearLevel,
  describe as describeAlert,
  evaluate,
  type Reading,
  type Readings,
  transition,
} from "./alert.ts"
import { readAlertConfig } from "./config.ts"

const { rules } = readAlertConfig({})
const property = { seed: 77_103, numRuns: 1_000 }

test("the codes, severities and thresholds are those of the contract", () => {
  expect(Object.fromEntries(alertCodes.map((code) => [code, alertKinds[code].threshold]))).toEqual({
    run_failure_rate_high: "p1RunFailureRate",
    outcome_unknown_open: "p1OutcomeUnknownOpen",
    moderation_unavailable: "p1ModerationUnavailable",
    tool_failure_rate_high: "p2ToolFailureRate",
    run_latency_p95_high: "p2RunLatencyP95Ms",
    moderation_block_rate_high: "p2ModerationBlockRate",
    approval_wait_p95_high: "p2ApprovalWaitP95Ms",
    policy_denial_spike: "p2PolicyDenialSpike",
  })
  for (const { severity, threshold } of Object.values(alertKinds)) {
    expect(threshold.startsWith(severity)).toBe(true)
  }
})

test.each(alertCodes)(
  "%s fires at its threshold, stays above the clear level, and ends",
  (code) => {
    const { value, minimumSample: sample } = rules.thresholds[alertKinds[code].threshold]
    const step = (reading: Reading, isLive: boolean) =>
      evaluate(rules, only(code, reading), new Set(isLive ? [code] : [])).map(({ kind }) => kind)
    expect(step({ value, sample }, false)).toEqual(["fire"])
    expect(step({ value: value * 0.999, sample }, false)).toEqual([])
    expect(step({ value, sample: sample - 1 }, false)).toEqual([])
    expect(step({ value: clearLevel(rules, code), sample }, true)).toEqual(["read"])
    expect(step({ value, sample: 1 }, true)).toEqual(["read"])
    expect(step({ value: clearLevel(rules, code) * 0.999, sample }, true)).toEqual(["resolve"])
    expect(step({ value, sample: 0 }, true)).toEqual(["resolve"])
  },
)

test("a figure that stays between clear level and threshold changes nothing, however it swings", () => {
  const code = "moderation_block_rate_high"
  const threshold = rules.thresholds[alertKinds[code].threshold]
  const between = fc.double({
    min: clearLevel(rules, code),
    max: threshold.value * 0.999,
    noNaN: true,
  })
  fc.assert(
    fc.property(fc.array(between, { maxLength: 30 }), fc.boolean(), (values, isLive) => {
      for (const value of values) {
        const live = new Set<AlertCode>(isLive ? [code] : [])
        const changes = evaluate(rules, only(code, { value, sample: 1_000 }), live)
        expect(changes.map(({ kind }) => kind)).toEqual(isLive ? ["read"] : [])
      }
    }),
    property,
  )
})

test("per code there is one change at most, and none but a firing for what is not live", () => {
  const reading = fc.record({ value: fc.double({ min: 0, noNaN: true }), sample: fc.nat() })
  const readings = fc.record(
    Object.fromEntries(alertCodes.map((code) => [code, reading])) as Record<
      AlertCode,
      typeof reading
    >,
  )
  fc.assert(
    fc.property(readings, fc.subarray([...alertCodes]), (found, live) => {
      const changes = evaluate(rules, found, new Set(live))
      expect(new Set(changes.map(({ code }) => code)).size).toBe(changes.length)
      for (const { kind, code } of changes) expect(kind === "fire").toBe(!live.includes(code))
      for (const code of live) expect(changes.some((change) => change.code === code)).toBe(true)
    }),
    property,
  )
})

test("an alert goes open, acknowledged, resolved, and nowhere from there", () => {
  expect(transition("open", "acknowledge")).toBe("acknowledged")
  expect(transition("open", "resolve")).toBe("resolved")
  expect(transition("acknowledged", "resolve")).toBe("resolved")
  const illegal = [
    ["acknowledged", "acknowledge"],
    ["resolved", "acknowledge"],
    ["resolved", "resolve"],
  ] as const
  for (const [state, event] of illegal) {
    expect(() => transition(state, event)).toThrow(RunwardenError)
    expect(() => transition(state, event)).toThrow(state)
  }
})

test("the sentence names value, sample and threshold", () => {
  const sentence = describeAlert({
    code: "moderation_block_rate_high",
    value: 0.33333,
    sample: 30,
    thresholdName: "p2ModerationBlockRate",
    threshold: 0.25,
  })
  expect(sentence).toBe(
    "Moderation blocked a part of 0.333 of 30 subjects; the threshold p2ModerationBlockRate is 0.25.",
  )
})

test("thresholds come from the environment, and every bad one is named", () => {
  const config = readAlertConfig({
    TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE: "0.5",
    TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE_MIN_SAMPLE: "3",
  })
  expect(config.rules.thresholds.p2ModerationBlockRate).toEqual({ value: 0.5, minimumSample: 3 })
  const bad = {
    TELEMETRY_ALERT_P1_RUN_FAILURE_RATE: "1.5",
    TELEMETRY_ALERT_P2_POLICY_DENIAL_SPIKE_MIN_SAMPLE: "0",
    TELEMETRY_ALERT_CLEAR_RATIO: "1",
  }
  for (const name of Object.keys(bad)) expect(() => readAlertConfig(bad)).toThrow(name)
})

/** Readings in which this one alone says anything. */
function only(code: AlertCode, reading: Reading): Readings {
  const none = Object.fromEntries(alertCodes.map((each) => [each, { value: 0, sample: 0 }]))
  return { ...(none as Readings), [code]: reading }
}
