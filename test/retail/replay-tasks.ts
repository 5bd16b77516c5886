// npm run replay: every retail task, with and without deaths, and what came of it.
import { parseArgs } from "node:util"
import { deathsOf } from "../adversity/faults.ts"
import { createRandom } from "../adversity/random.ts"
import { startKilling } from "./kills.ts"
import { type ReplayReport, replay } from "./replay.ts"
import { type RetailCluster, startRetailCluster } from "./shops.ts"
import { type RetailSet, readRetailSet } from "./tasks.ts"

const help = `RUNWARDEN_EVAL_DATA=FOLDER npm run replay -- [--runs-per-death N] [--seed S]

Replays the retail tasks of tau-bench, each as a run in a workspace of its own, against a provider that
keeps its shops in Postgres: once undisturbed, and once while orchestrators, tools services and the
provider die. Ends with 1 when a call gives anything but what the set says, or any other record changes.

  --runs-per-death N  a process dies for every N runs that end; 2 unless given
  --seed S            who dies, and at which points; 1 unless given
  --help              this text
`

const { values } = parseArgs({
  options: {
    "runs-per-death": { type: "string", default: "2" },
    seed: { type: "string", default: "1" },
    help: { type: "boolean", default: false },
  },
})
const runsPerDeath = Number(values["runs-per-death"])
const seed = Number(values.seed)
const set = readRetailSet(process.env.RUNWARDEN_EVAL_DATA)
if (values.help || set === undefined || !(runsPerDeath >= 1) || !Number.isSafeInteger(seed)) {
  process.stdout.write(help)
  process.exit(values.help ? 0 : 2)
}

const findings = await replayTwice(set)
process.exit(findings === 0 ? 0 : 1)

async function replayTwice({ shop, tasks }: RetailSet): Promise<number> {
  await using retail = await startRetailCluster(shop)
  const signal = AbortSignal.timeout(60 * 60_000)
  const calm = await replay(retail, tasks, { signal })
  tell("undisturbed", calm)
  await using killing = startKilling(retail.cluster, { random: createRandom(seed), runsPerDeath })
  const { runEnded } = killing
  const killed = await replay(retail, tasks, { signal, runEnded })
  tell("under deaths", killed)
  tellDeaths(retail)
  return calm.findings.length + killed.findings.length
}

function tell(how: string, report: ReplayReport): void {
  const { runs, calls, confirmed, repeated, changedRecords, elapsedMs, findings } = report
  const seconds = (elapsedMs / 1_000).toFixed(0)
  process.stdout.write(
    `${how}: ${runs} runs, ${calls} calls (${confirmed} confirmed, ${repeated} sent more than once), ` +
      `${changedRecords} changed records in ${seconds} s; ${findings.length} findings\n`,
  )
  for (const finding of findings) process.stdout.write(`  ${finding.slice(0, 500)}\n`)
}

function tellDeaths({ cluster }: RetailCluster): void {
  const deaths = deathsOf(cluster)
  const kinds = Map.groupBy(deaths, ({ process: name, cause, detail }) => {
    const how =
      cause === "kill_point" ? `at ${detail}` : cause === "signal" ? "at any moment" : detail
    return `${name.split(" ")[0]} ${how}`
  })
  process.stdout.write(`${deaths.length} deaths\n`)
  for (const [kind, found] of [...kinds].sort()) {
    process.stdout.write(`  ${String(found.length).padStart(3)}  ${kind}\n`)
  }
}
