/**
 * `npm run bench`: what a run of three moderated steps costs, beside the same in plain code, and
 * whether everything was done that was acknowledged. docs/performance.md tells what it measures.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { loadavg } from "node:os"
import path from "node:path"
import { Command, InvalidArgumentError, Option } from "commander"
import { startBenchServer } from "./bench-server.ts"
import { describeMachine } from "./machine.ts"
import { report } from "./report.ts"
import { type Mode, type Plan, sit } from "./sitting.ts"

interface Flags {
  readonly quick: boolean
  readonly mode: readonly Mode[]
  readonly clients: readonly number[]
  readonly rounds?: number
  readonly seconds?: number
  readonly json?: string
  readonly data?: string
  readonly profile?: string
}

const modes: readonly Mode[] = ["local", "processes"]

const program = new Command("npm run bench --")
  .description(
    "Measures runs of three moderated tool steps, each with one durable effect, in turns with the same\nworkload in plain code, on a PostgreSQL of its own with fsync on. Recounts every acknowledged run\nfrom the databases afterwards and fails when anything is missing.",
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
  .addHelpText("after", "\nIt changes nothing outside of its folder, and no other process.")

await main(program.parse().opts<Flags>())

async function main(flags: Flags): Promise<void> {
  const plan: Plan = {
    modes: flags.mode,
    clients: flags.clients,
    rounds: flags.rounds ?? (flags.quick ? 1 : 3),
    ms: (flags.seconds ?? (flags.quick ? 2 : 3)) * 1_000,
    warmMs: Math.min(2_000, (flags.seconds ?? 2) * 1_000),
    isThorough: !flags.quick,
    profileFolder: flags.profile === undefined ? undefined : path.resolve(flags.profile),
  }
  if (plan.profileFolder !== undefined) mkdirSync(plan.profileFolder, { recursive: true })
  const load = loadavg()[0]
  await using server = await startBenchServer({
    dataFolder: flags.data === undefined ? undefined : path.resolve(flags.data),
    countsStatements: plan.profileFolder !== undefined,
  })
  const machine = `${describeMachine()}, PostgreSQL ${server.version}`
  process.stdout.write(`${machine}\n`)
  const figures = await sit(plan, server, tell)
  tell("")
  report(figures, (text) => process.stdout.write(`${text}\n`))
  if (flags.json !== undefined) {
    const document = { machine, load, time: new Date().toISOString(), plan, ...figures }
    writeFileSync(flags.json, `${JSON.stringify(document, null, 2)}\n`)
  }
  if (figures.recounts.some(({ missing }) => missing.length > 0)) process.exitCode = 1
}

/** What is being done right now; on a terminal in one line that is written over. */
function tell(what: string): void {
  if (process.stderr.isTTY === true) process.stderr.write(`\r\x1b[K${what}`)
  else if (what !== "") process.stderr.write(`${what}\n`)
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
