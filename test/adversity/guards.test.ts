// The checker against services whose guards have been taken out: what they do wrong is noticed.
import { afterAll, beforeAll, expect, test } from "vitest"
import { type Cluster, startCluster } from "./cluster.ts"
import { open } from "./dump.ts"
import { FaultLog, sleep } from "./faults.ts"
import type { RunShape } from "./plans.ts"
import { createRandom } from "./random.ts"
import { runScenario, type Scenario } from "./scenario.ts"

let cluster: Cluster

beforeAll(async () => {
  cluster = await startCluster({
    isDurable: false,
    // A busy machine must not lose leases that nobody would take over.
    hasDefaultTimes: true,
    mutations: {
      orchestrator: ["early_answers", "no_questions", "abandoned_runs"],
      tools: ["unsafe_repeats"],
    },
  })
  // The database would not let such a call be stored.
  await using database = await open(cluster, "orchestrator")
  await database.query("alter table tool_calls drop constraint tool_calls_approval_check")
}, 120_000)

afterAll(() => cluster[Symbol.asyncDispose]())

/** Everything that the missing guards are for, one after the other. */
const everything: Scenario = {
  name: "missing guards",
  async run({ cluster, workload }) {
    const { tools, orchestrators, postgres } = cluster
    const start = (count: number, shape: RunShape) =>
      workload.start(Array<RunShape>(count).fill(shape), 1_000)
    for (const each of tools) each.arm([{ point: "after_reply", passing: 2 }])
    await start(8, { effect: "unsafe", stepCount: 2 })
    await start(4, { effect: "keyed", stepCount: 2, highStep: 1 })
    // Those whose sender died are sent again once its lease has ended.
    await workload.settled(20_000)
    await start(8, { effect: "keyed", stepCount: 2, delayMs: 2_000 })
    for (const each of orchestrators) each.kill()
    // Acknowledged while nothing can be stored; and then their orchestrator and its connections die.
    await using database = await open(cluster, "orchestrator")
    await database.query("begin")
    await database.query("lock table runs in share mode")
    await start(6, { effect: "keyed", stepCount: 1 })
    for (const each of orchestrators) each.kill()
    await sleep(200)
    await postgres.terminateConnections()
    await database.query("rollback")
  },
}

test("I1, I4, I5 and I8 fail where their guards are missing", { timeout: 180_000 }, async () => {
  const { anomalies } = await runScenario(everything, {
    cluster,
    random: createRandom(1),
    faults: new FaultLog(),
    runs: 0,
    settleMs: 12_000,
  })
  const broken = new Set(anomalies.map((anomaly) => anomaly.slice(0, 2)))
  expect([...broken]).toEqual(expect.arrayContaining(["I1", "I4", "I5", "I8"]))
})
