// The short form of `npm run chaos`: processes that die at every point of a step, and every other
// fault once, under runs of all classes; then everything is checked. Says what it leaves out.
import { afterAll, beforeAll, expect, test } from "vitest"
import { otherTurns, skipped } from "./chaos-plan.ts"
import { type Cluster, startCluster } from "./cluster.ts"
import { FaultLog } from "./faults.ts"
import { effectClasses } from "./history.ts"
import { killSweep } from "./kill-scenario.ts"
import { createRandom, type Random } from "./random.ts"
import { runScenario, type Scenario, type ScenarioResult } from "./scenario.ts"

const sweptRuns = 504
const runsPerFault = 18
const timeout = 180_000
const seed = 20_260_101

const faults = new FaultLog()
const results: ScenarioResult[] = []
let cluster: Cluster
let random: Random

beforeAll(async () => {
  for (const each of skipped()) console.log(`skipped: ${each}`)
  random = createRandom(seed)
  cluster = await startCluster({ isDurable: false })
}, 180_000)

afterAll(() => cluster[Symbol.asyncDispose]())

const sweep = killSweep({ effects: effectClasses, kills: 1, maxLive: 84 })
const scenarios = [
  [sweep.name, sweep, sweptRuns] as const,
  ...otherTurns.map(({ scenario }) => [scenario.name, scenario, runsPerFault] as const),
]

test.each(scenarios)("%s", { timeout }, async (_, scenario: Scenario, runs: number) => {
  const result = await runScenario(scenario, { cluster, random, faults, runs })
  results.push(result)
  expect(result.anomalies).toEqual([])
  expect(result.runs).toBeGreaterThanOrEqual(runs)
})

test("more than 500 runs were started, and nearly all of them did something", () => {
  const total = (of: (result: ScenarioResult) => number) =>
    results.reduce((sum, result) => sum + of(result), 0)
  expect(total(({ runs }) => runs)).toBeGreaterThanOrEqual(500)
  const got = total(({ reach }) => reach.executed + reach.lost)
  expect(got).toBeGreaterThanOrEqual(0.95 * total(({ runs }) => runs))
})
