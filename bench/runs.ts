/**
 * `npm run bench`: what a run of three moderated steps costs, beside the same in plain code, and
 * whether everything was done that was acknowledged. docs/performance.md tells what it measures.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { loadavg, tmpdir } from "node:os"
import path from "node:path"
import { Command, InvalidArgumentError, Option } from "commander"
import { type BenchServer, startBenchServer } from "./bench-server.ts"
import { measureFlat } from "./flat.ts"
import { describeMachine } from "./machine.ts"
import { report, reportFlat } from "./report.ts"
import { type Mode, type SittingPlan, sit } from "./sitting.ts"

interface Flags {
  readonly quick: boolean
  readonly mode: readonly Mode[]
  readonly clients: readonly number[]
  readonly rounds?: number
  readonly seconds?: number
  readonly json?: string
  readonly data?: string
  readonly profile?: string
  /** `true` without a number. */
  readonly flat?: number | true
}

/** What was told last. */
let told = ""
const modes: readonly Mode[] = ["local", "processes"]

const program = new Command("npm run bench --")
  .description(
    "Measures runs of three moderated tool steps, each with one durable effect, in turns with the same workload in plain code, on a PostgreSQL of its own with fsync on. Recounts every acknowledged run from the databases afterwards and fails when anything is missing.",
  )
  .option("--quick", "one round of 2 s per point; no transaction counts, no idle figures", false)
  .addOption(
    new Option("--mode <list>", "local, processes or both, by commas")
      .argParser(readModes)
      .default(modes, "both"),
  )
  .addOption(
    new Option("--clients <list>", "numbers of clients, by commas")
      .argParser(readNumbers)
      .default([1, 16, 64], "1,16,64"),
  )
  .addOption(new Option("--rounds <n>", "rounds of each point (default 3)").argParser(readNumber))
  .addOption(new Option("--seconds <n>", "length of a round (default 3)").argParser(readNumber))
  .option("--json <file>", "writes all figures there")
  .option("--data <folder>", "keeps the database there; otherwise it is temporary")
  .option("--profile <folder>", "writes a CPU profile of each process there")
  .addOption(
    new Option(
      "--flat [runs]",
      "measures on an empty database and, in turns, on one with so many finished runs (1000000) and a tenth of that waiting for approval; filling it takes a while, and 20 GB, and is kept",
    ).argParser(readNumber),
  )
  .addHelpText("after", "\nIt changes nothing outside of its folder, and no other process.")

try {
  await main(program.parse().opts<Flags>())
} catch (error) {
  process.stderr.write(`\n${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}

async function main(flags: Flags): Promise<void> {
  const plan: SittingPlan = {
    modes: flags.mode,
    clients: flags.clients,
    rounds: flags.rounds ?? (flags.quick ? 1 : 3),
    ms: (flags.seconds ?? (flags.quick ? 2 : 3)) * 1_000,
    warmMs: flags.quick ? 2_000 : 10_000,
    isThorough: !flags.quick,
    profileFolder: flags.profile === undefined ? undefined : path.resolve(flags.profile),
  }
  if (plan.profileFolder !== undefined) mkdirSync(plan.profileFolder, { recursive: true })
  const load = loadavg()[0]
  const dataFolder = dataFolderOf(flags)
  await using server = await startBenchServer({
    dataFolder,
    countsStatements: plan.profileFolder !== undefined,
  })
  const machine = `${describeMachine()}, PostgreSQL ${server.version}`
  process.stdout.write(`${machine}\n`)
  const print = (text: string) => process.stdout.write(`${text}\n`)
  const { figures, show } = await measure(flags, plan, server, dataFolder)
  tell("")
  show(print)
  if (flags.json !== undefined) {
    const document = { machine, load, time: new Date().toISOString(), plan, ...figures }
    writeFileSync(flags.json, `${JSON.stringify(document, null, 2)}\n`)
  }
  if (figures.recounts.some(({ missing }) => missing.length > 0)) process.exitCode = 1
}

async function measure(
  { flat }: Flags,
  plan: SittingPlan,
  server: BenchServer,
  dataFolder: string | undefined,
) {
  if (flat === undefined || dataFolder === undefined) {
    const figures = await sit(plan, server, tell)
    return { figures, show: (print: Print) => report(figures, print) }
  }
  const finished = flat === true ? 1_000_000 : flat
  const size = { finished, waiting: finished / 10 }
  const figures = await measureFlat(plan, server, { dataFolder, size }, tell)
  const show = (print: Print) => {
    reportFlat(figures, print)
    print(`The filled database is kept in ${dataFolder}.`)
  }
  return { figures, show }
}

type Print = (text: string) => void

/** Undefined for one that is temporary; what took long to fill is kept. */
function dataFolderOf({ data, flat }: Flags): string | undefined {
  if (data !== undefined) return path.resolve(data)
  return flat === undefined ? undefined : path.join(tmpdir(), "runwarden-bench-flat")
}

/** What is being done right now; on a terminal in one line that is written over, else without percents. */
function tell(what: string): void {
  if (process.stderr.isTTY === true) {
    process.stderr.write(`\r\x1b[K${what}`)
    return
  }
  const step = what.replace(/, \d+ %$/, "")
  if (step !== told && step !== "") process.stderr.write(`${step}\n`)
  told = step
}

function readModes(text: string): readonly Mode[] {
  const names = text.split(",")
  const unknown = names.find((name) => !modes.includes(name as Mode))
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no mode "${unknown}".`)
  return names as Mode[]
}

function readNumbers(text: string): readonly number[] {
  return text.split(",").map(readNumber)
}

function readNumber(text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError(`"${text}" is not a number above 0.`)
  return value
}
