/** What a chaos run has to say at its end. */

import { percentile } from "./recovery-meter.ts"
import type { ScenarioResult } from "./scenario.ts"
import type { Death } from "./supervised-process.ts"

export interface ChaosReport {
  readonly results: readonly ScenarioResult[]
  readonly faults: Readonly<Record<string, number>>
  /** Milliseconds from an orchestrator's death to the takeover of each of its runs. */
  readonly recoveries: readonly number[]
  /** The same with the leases of production. */
  readonly defaultRecoveries: readonly number[]
  readonly skipped: readonly string[]
}

const leastExecuted = 0.95

export function anomaliesOf({ results }: ChaosReport): readonly string[] {
  const runs = sum(results, ({ runs }) => runs)
  const executed = sum(results, ({ reach }) => reach.executed)
  const lost = sum(results, ({ reach }) => reach.lost)
  const named = results.flatMap(({ name, anomalies }) =>
    anomalies.map((each) => `${name}: ${each}`),
  )
  return executed + lost >= runs * leastExecuted
    ? named
    : [...named, `only ${executed} of ${runs} runs got as far as a tool, ${lostText(lost)}`]
}

export function reportText(report: ChaosReport): string {
  const { results, faults, recoveries, defaultRecoveries, skipped } = report
  const runs = sum(results, (result) => result.runs)
  const executed = sum(results, ({ reach }) => reach.executed)
  const lost = sum(results, ({ reach }) => reach.lost)
  const ends = new Map<string, number>()
  for (const result of results) {
    for (const [end, count] of Object.entries(result.ends)) {
      ends.set(end, (ends.get(end) ?? 0) + count)
    }
  }
  const anomalies = anomaliesOf(report)
  return [
    `runs       ${runs} acknowledged, ${executed} got as far as a tool (${percent(executed, runs)})`,
    ...(lost === 0 ? [] : [`           ${lostText(lost)}`]),
    `ends       ${[...ends].map(([end, count]) => `${count} ${end}`).join(", ")}`,
    `recovery   ${recoveryText(recoveries)}`,
    ...(defaultRecoveries.length === 0
      ? []
      : [`           ${recoveryText(defaultRecoveries)}, with the default lease of 10 s`]),
    "faults",
    ...Object.entries(faults).map(([kind, count]) => `  ${String(count).padStart(6)}  ${kind}`),
    ...skipped.map((each) => `skipped    ${each}`),
    `anomalies  ${anomalies.length}`,
    ...anomalies.slice(0, 100).map((each) => `  ${each}`),
    "",
  ].join("\n")
}

/** The deaths of orchestrators, which are what leases are for. */
export function ownerDeaths(deaths: readonly Death[]): readonly number[] {
  return deaths.filter(({ process }) => process.startsWith("orchestrator")).map(({ at }) => at)
}

function lostText(lost: number): string {
  return `${lost} were lost with the provider on the way there`
}

function recoveryText(recoveries: readonly number[]): string {
  const [p50, p99] = [percentile(recoveries, 0.5), percentile(recoveries, 0.99)]
  return `${recoveries.length} runs taken over: p50 ${seconds(p50)}, p99 ${seconds(p99)}`
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "none" : `${((100 * part) / whole).toFixed(1)} %`
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0)
}
