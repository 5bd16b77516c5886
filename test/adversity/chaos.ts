// npm run chaos: faults without end, for so many minutes, and what became of every run.
import { parseArgs } from "node:util"
import { skipped, turns } from "./chaos-plan.ts"
import { type Cluster, startCluster } from "./cluster.ts"
import { randomKills } from "./fault-scenarios.ts"
import { deathsOf, FaultLog, processesOf } from "./faults.ts"
import { createRandom } from "./random.ts"
import { RecoveryMeter } from "./recovery-meter.ts"
import { anomaliesOf, ownerDeaths, reportText } from "./report.ts"
import { runScenario, type ScenarioResult } from "./scenario.ts"

const help = `npm run chaos -- --minutes N [--seed S] [--scenario NAME]

Runs two orchestrators, two tools services and their neighbours as processes, has them killed, frozen,
cut off and restored for N minutes while clients start runs, and checks afterwards that every run is
right and every effect as it should be. Ends with 1 when anything is not. Ctrl-C ends it after the turn that
has begun.

  --minutes N      how long; a turn that has begun is brought to its end
  --seed S         the same choices again; 1 unless given
  --scenario NAME  only the scenarios whose name begins so, such as "kill after_send" or "postgres"
  --help           this text
`

const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    seed: { type: "string", default: "1" },
    scenario: { type: "string" },
    help: { type: "boolean", default: false },
  },
})
const minutes = Number(values.minutes)
const seed = Number(values.seed)
if (values.help || !(minutes > 0) || !Number.isSafeInteger(seed)) {
  process.stdout.write(help)
  process.exit(values.help ? 0 : 2)
}

let isStopping = false
process.once("SIGINT", () => {
  isStopping = true
})

const startedAt = Date.now()
const faults = new FaultLog()
const random = createRandom(seed)
const results: ScenarioResult[] = []

const main = await chaos(minutes * 60_000)
const hasTime = minutes >= 5 && values.scenario === undefined && !isStopping
const defaults = hasTime ? await defaultRecoveries() : []
const report = {
  results,
  faults: main.faults,
  recoveries: main.recoveries,
  defaultRecoveries: defaults,
  skipped: skipped(),
}
process.stdout.write(`\n${reportText(report)}`)
process.exit(anomaliesOf(report).length === 0 ? 0 : 1)

async function chaos(forMs: number) {
  await using cluster = await startCluster({ isDurable: true })
  await using meter = new RecoveryMeter(cluster)
  for (const { scenario, runs } of turns(values.scenario)) {
    progress(`${scenario.name} …`)
    const result = await runScenario(scenario, { cluster, random, faults, runs })
    results.push(result)
    tell(result)
    if (isStopping || Date.now() - startedAt >= forMs) break
  }
  tellErrors(cluster)
  return {
    faults: faults.summary(deathsOf(cluster)),
    recoveries: meter.recoveries(ownerDeaths(deathsOf(cluster))),
  }
}

/** How long recovery takes with the leases that production has. */
async function defaultRecoveries(): Promise<readonly number[]> {
  await using cluster = await startCluster({ isDurable: true, hasDefaultTimes: true })
  await using meter = new RecoveryMeter(cluster)
  const scenario = { ...randomKills, name: "random kills at the default lease" }
  progress(`${scenario.name} …`)
  const result = await runScenario(scenario, { cluster, random, faults, runs: 300 })
  results.push(result)
  tell(result)
  return meter.recoveries(ownerDeaths(deathsOf(cluster)))
}

function tell({ name, runs, anomalies, elapsedMs }: ScenarioResult): void {
  const total = results.reduce((sum, result) => sum + result.runs, 0)
  const verdict = anomalies.length === 0 ? "right" : `${anomalies.length} anomalies`
  const seconds = (elapsedMs / 1_000).toFixed(0)
  const elapsed = ((Date.now() - startedAt) / 60_000).toFixed(1)
  progress("")
  process.stdout.write(
    `${elapsed.padStart(6)} min  ${String(total).padStart(6)} runs  ${name}: ${runs} runs in ${seconds} s, ${verdict}\n`,
  )
  for (const anomaly of anomalies.slice(0, 5)) process.stdout.write(`              ${anomaly}\n`)
}

/** What the services themselves called an error, each kind once. */
function tellErrors(cluster: Cluster): void {
  const kinds = new Map<string, number>()
  for (const { name, lines } of processesOf(cluster)) {
    for (const line of lines) {
      const text = `${name.split(" ")[0]}: ${kindOf(line)}`
      kinds.set(text, (kinds.get(text) ?? 0) + 1)
    }
  }
  for (const [kind, count] of kinds) process.stdout.write(`logged ${count} x  ${kind}\n`)
}

function kindOf(line: string): string {
  try {
    const { msg, err } = JSON.parse(line) as { msg?: string; err?: { message?: string } }
    return `${msg} ${err?.message ?? ""}`.slice(0, 200)
  } catch {
    return line.slice(0, 200)
  }
}

function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
