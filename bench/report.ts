/** The figures of a sitting as tables for people. */
import Table from "cli-table3"
import type { FlatFigures } from "./flat.ts"
import { over, type Point, type RecountPoint, ratio, type SittingFigures } from "./sitting.ts"
import type { LoadFigures, Work } from "./subject.ts"

const names: Readonly<Record<Work, string>> = {
  floor: "plain code, 8 commits",
  each: "runwarden, effects one by one",
  grouped: "runwarden, effects grouped",
  edge: "the same through the edge",
}

export function report(figures: SittingFigures, print: (text: string) => void): void {
  const modes = [...new Set(figures.points.map(({ mode }) => mode))]
  for (const mode of modes) {
    const points = figures.points.filter((point) => point.mode === mode)
    print(`\n${mode === "local" ? "Local: all in one process" : "Each service in its own process"}`)
    print(loadTable(points))
    for (const { failure } of points.flatMap(({ rounds }) => rounds)) {
      if (failure !== undefined) print(`A run failed: ${failure}`)
    }
    print(approvalTable(figures, mode))
  }
  if (figures.transactions.length > 0) print(transactionTable(figures))
  for (const { mode, transactionsPerSecond, corePercent, memoryMb } of figures.idle) {
    print(
      `${mode}, idle: ${percent(corePercent)} of a core, ${transactionsPerSecond.toFixed(1)} transactions/s; memory MB: ${list(memoryMb)}`,
    )
  }
  const [off, on] = figures.tracing
  if (off !== undefined && on !== undefined) {
    const throughput = number(ratio(on, off, (it) => it.runsPerSecond))
    const cpu = number(ratio(on, off, (it) => it.cpuMsTotal))
    print(
      `local, ${on.clients} clients, 10 % of the traces recorded against none: ${throughput} × runs/s, ${cpu} × CPU per run`,
    )
  }
  for (const { mode, mb } of figures.memory) print(`${mode}, memory after load, MB: ${list(mb)}`)
  reportRecounts(figures.recounts, print)
}

/** The figures on an empty and on a full database side by side. */
export function reportFlat(figures: FlatFigures, print: (text: string) => void): void {
  const { size, loads, approvals, idle } = figures
  print(
    `\nLocal, effects grouped, on an empty database and with ${size.finished} finished and ${size.waiting} waiting runs`,
  )
  const table = plainTable([
    ...["", "runs/s empty", "full", "ratio", "p50 ms empty", "full", "ratio", "p99 empty", "full"],
    ...["CPU ms/run empty", "full", "ratio"],
  ])
  const row = <F>(empty: readonly F[], seeded: readonly F[], figure: (round: F) => number) => [
    number(over({ rounds: empty }, figure)),
    number(over({ rounds: seeded }, figure)),
    number(ratio({ rounds: seeded }, { rounds: empty }, figure)),
  ]
  for (const { clients, empty, seeded } of loads) {
    table.push([
      `${clients} clients`,
      ...row(empty, seeded, (it) => it.runsPerSecond),
      ...row(empty, seeded, (it) => it.p50),
      ...row(empty, seeded, (it) => it.p99).slice(0, 2),
      ...row(empty, seeded, (it) => it.cpuMsTotal),
    ])
  }
  for (const { clients, empty, seeded } of approvals) {
    table.push([
      `approval → end, ${clients} pending`,
      ...["", "", ""],
      ...row(empty, seeded, (it) => it.p50),
      ...row(empty, seeded, (it) => it.p99).slice(0, 2),
      ...["", "", ""],
    ])
  }
  print(table.toString())
  for (const [name, { corePercent, memoryMb }] of Object.entries(idle)) {
    print(`idle, ${name}: ${percent(corePercent)} of a core; memory MB: ${list(memoryMb)}`)
  }
  reportRecounts(figures.recounts, print)
}

function reportRecounts(recounts: readonly RecountPoint[], print: (text: string) => void): void {
  for (const { mode, runs, missing } of recounts) {
    if (missing.length === 0) {
      print(
        `${mode}: recounted ${runs} acknowledged runs in all databases: decisions, ledger, effects, history and telemetry are complete.`,
      )
    }
    for (const { what, runs: count, example } of missing) {
      print(`${mode}: MISSING ${what}: ${count} of ${runs} runs, such as ${example}`)
    }
  }
}

function loadTable(points: readonly Point[]): string {
  const table = plainTable([
    ...["clients", "what", "runs/s", "× plain", "p50 ms", "× plain", "p95", "p99"],
    ...[
      "CPU ms/run",
      "× plain",
      "node",
      "postgres",
      "WAL KB",
      "drain ms",
      "others' cores",
      "failed",
    ],
  ])
  for (const point of points) {
    const base = points.find((it) => it.work === "floor" && it.clients === point.clients)
    const value = (figure: (round: LoadFigures) => number) => over(point, figure)
    const by = (figure: (round: LoadFigures) => number) =>
      point === base ? "" : number(ratio(point, base, figure))
    const postgres = (round: LoadFigures) => round.cpuMs.postgres ?? Number.NaN
    table.push([
      point.clients,
      names[point.work],
      number(value((it) => it.runsPerSecond)),
      by((it) => it.runsPerSecond),
      number(value((it) => it.p50)),
      by((it) => it.p50),
      number(value((it) => it.p95)),
      number(value((it) => it.p99)),
      number(value((it) => it.cpuMsTotal)),
      by((it) => it.cpuMsTotal),
      number(value((it) => it.cpuMsTotal - postgres(it))),
      number(value(postgres)),
      number(value((it) => it.walBytes / 1024)),
      number(value((it) => it.drainMs)),
      number(value((it) => it.othersCores)),
      point.rounds.reduce((sum, it) => sum + it.failures, 0),
    ])
  }
  return table.toString()
}

function approvalTable({ approvals }: SittingFigures, mode: string): string {
  const table = plainTable(["approval → end", "pending", "p50 ms", "× plain", "p95", "p99"])
  for (const point of approvals.filter((it) => it.mode === mode)) {
    const base = approvals.find(
      (it) => it.mode === mode && it.work === "floor" && it.pending === point.pending,
    )
    table.push([
      names[point.work],
      point.pending,
      number(over(point, (it) => it.p50)),
      base === point ? "" : number(ratio(point, base, (it) => it.p50)),
      number(over(point, (it) => it.p95)),
      number(over(point, (it) => it.p99)),
    ])
  }
  return table.toString()
}

function transactionTable({ transactions }: SittingFigures): string {
  const table = plainTable(["transactions per run, all databases", "mode", ""])
  for (const { mode, work, perRun } of transactions) {
    table.push([names[work], mode, number(perRun)])
  }
  return table.toString()
}

/** Without colours, which do not survive where tables are kept. */
export function plainTable(head: readonly string[]): Table.Table {
  const bare = Object.fromEntries(
    [
      ...["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left"],
      ...["bottom-right", "left", "left-mid", "mid", "mid-mid", "right", "right-mid"],
    ].map((part) => [part, ""]),
  )
  return new Table({
    head: [...head],
    style: { head: [], border: [], compact: true, "padding-left": 1, "padding-right": 1 },
    chars: { ...bare, middle: " " },
  })
}

/** Three significant digits. */
function number(value: number): string {
  if (!Number.isFinite(value)) return "–"
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toFixed(digits)
}

function percent(values: Readonly<Record<string, number>>): string {
  const sum = Object.values(values).reduce((all, one) => all + one, 0)
  return `${sum.toFixed(1)} % (${list(values)})`
}

function list(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name} ${number(value)}`)
    .join(", ")
}
