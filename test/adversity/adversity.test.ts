// The short form of `npm run chaos`: processes that die at every point of a step, and every other
// fault once, under runs of all classes; then everything is checked. Says what it leaves out.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { killPoints } from "../../mesh/kill-points.ts"
import { otherTurns, skipped } from "./chaos-plan.ts"
import { type Cluster, startCluster } from "./cluster.ts"
import { FaultLog } from "./faults.ts"
import { effectClasses } from "./history.ts"
import { killScenario, killsAt } from "./kill-scenario.ts"
import { createRandom, type Random } from "./random.ts"
import { runScenario, type Scenario, type ScenarioResult } from "./scenario.ts"

const runsPerPoint = 42
const runsPerFault = 24
const timeout = 300_000
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

async function run(scenario: Scenario, runs: number): Promise<ScenarioResult> {
  const result = await runScenario(scenario, { cluster, random, faults, runs })
  results.push(result)
  return result
}

describe("a process dies", () => {
  test.each(killPoints)("%s", { timeout }, async (point) => {
    const before = killsAt(cluster, point)
    const scenario = killScenario(point, { effects: effectClasses, kills: 2, maxLive: 42 })
    const { anomalies, runs } = await run(scenario, runsPerPoint)
    expect(anomalies).toEqual([])
    expect(runs).toBe(runsPerPoint)
    expect(killsAt(cluster, point)).toBeGreaterThan(before)
  })
})

describe("something else goes wrong", () => {
  const scenarios = otherTurns.map(({ scenario }) => [scenario.name, scenario] as const)
  test.each(scenarios)("%s", { timeout }, async (_, scenario) => {
    expect((await run(scenario, runsPerFault)).anomalies).toEqual([])
  })
})

test("more than 500 runs were started, and nearly all of them did something", () => {
  const total = (of: (result: ScenarioResult) => number) =>
    results.reduce((sum, result) => sum + of(result), 0)
  expect(total(({ runs }) => runs)).toBeGreaterThanOrEqual(500)
  expect(total(({ executed }) => executed)).toBeGreaterThanOrEqual(0.95 * total(({ runs }) => runs))
})
