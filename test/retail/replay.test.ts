// A real workload: the retail tasks of tau-bench. Each call must give what the set says, and exactly the
// records that the set names must differ afterwards; also while processes die, here for every fifth
// task. `npm run replay` kills under all of them.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { deathsOf } from "../adversity/faults.ts"
import { createRandom } from "../adversity/random.ts"
import { startKilling } from "./kills.ts"
import { retailTools } from "./provider.ts"
import { replay } from "./replay.ts"
import { readShop } from "./shop-data.ts"
import { type RetailCluster, startRetailCluster } from "./shops.ts"
import { readRetailSet } from "./tasks.ts"

/** So much only on a machine that has other work. */
const timeout = 600_000
const set = readRetailSet(process.env.RUNWARDEN_EVAL_DATA)
if (set === undefined) console.log("skipped: the retail tasks (set RUNWARDEN_EVAL_DATA)")

describe.skipIf(set === undefined)("the retail tasks", () => {
  let retail: RetailCluster
  const { shop, tasks = [] } = set ?? {}

  beforeAll(async () => {
    if (shop !== undefined) retail = await startRetailCluster(shop)
  }, 120_000)
  afterAll(() => retail?.[Symbol.asyncDispose]())

  test("the shop's tables hold what the set does", async () => {
    const records = await readShop(retail.admin, retail.pristineId)
    const expected = Object.entries(shop ?? {}).flatMap(([kind, found]) =>
      Object.entries(found).map(([id, record]) => [`${kind}/${id}`, record]),
    )
    expect(expected).toHaveLength(1_550)
    expect(records).toEqual(Object.fromEntries(expected))
  })

  test("every call gives what it should, and the right records change", { timeout }, async () => {
    const report = await replay(retail, tasks, { signal: AbortSignal.timeout(timeout) })
    const expected = { runs: 132, calls: 607, confirmed: 167, changedRecords: 193 }
    expect(report).toMatchObject({ findings: [], ...expected })
  })

  test("so they do while orchestrators, tools services and the shop die", { timeout }, async () => {
    const { cluster } = retail
    const some = tasks.filter((_, n) => n % 5 === 0)
    await using killing = startKilling(cluster, { random: createRandom(7), runsPerDeath: 4 })
    const { runEnded } = killing
    const report = await replay(retail, some, { signal: AbortSignal.timeout(timeout), runEnded })
    expect(report.findings).toEqual([])
    const deaths = deathsOf(cluster)
    const kinds = new Set(deaths.map(({ process }) => process.split(" ")[0]))
    expect([...kinds].sort()).toEqual(["orchestrator", "retail", "tools"])
    expect(deaths.filter(({ cause }) => cause === "itself")).toEqual([])
  })

  test("a shop that forgets its keys is noticed", { timeout }, async () => {
    const weightOf = new Map(retailTools.map(({ name, weight }) => [name, weight]))
    // An address that is set twice is the same as if it were once.
    const some = tasks.filter(({ actions }) => {
      const weights = new Set(actions.map(({ name }) => weightOf.get(name)))
      return weights.has("commit") && !weights.has("change")
    })
    const forgetful = await retail.replaceProvider(["forgotten_keys"])
    forgetful.arm([{ point: "after_effect", passing: 1 }])
    const signal = AbortSignal.timeout(timeout)
    const { findings } = await replay(retail, some.slice(0, 4), { signal })
    expect(forgetful.deaths).toHaveLength(1)
    expect(findings.join("\n")).toMatch(/gave "Error: non-(?:pending|delivered) order cannot be/)
  })
})
