/**
 * One sitting: plain code and the product in turns, round by round, on one PostgreSQL, so that
 * whatever the machine does hits both. Only ratios between neighbours in time hold.
 */
import { fork } from "node:child_process"
import { once } from "node:events"
import { readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import type { BenchDatabases, BenchServer } from "./bench-server.ts"
import { settleMs } from "./bench-server.ts"
import { type Latencies, median } from "./closed-loop.ts"
import { profileTables, summarise } from "./cpu-profile.ts"
import { groupings } from "./effect-provider.ts"
import { readStatements, resetStatements, statementTable } from "./statements.ts"
import type { IdleFigures, LoadFigures, SubjectConfig, Work } from "./subject.ts"
import { type SubjectProcess, startSubject } from "./subject-process.ts"

export type Mode = "local" | "processes"

/** What is measured, and for how long. */
export interface SittingPlan {
  readonly modes: readonly Mode[]
  readonly clients: readonly number[]
  readonly rounds: number
  readonly ms: number
  readonly warmMs: number
  /** Transactions per run take a minute of waiting, idle figures half of one. */
  readonly isThorough: boolean
  readonly profileFolder: string | undefined
}

export interface Point {
  readonly mode: Mode
  readonly work: Work
  readonly clients: number
  readonly rounds: readonly LoadFigures[]
}

export interface ApprovalPoint {
  readonly mode: Mode
  readonly work: Work
  readonly pending: number
  readonly rounds: readonly Latencies[]
}

export interface TransactionPoint {
  readonly mode: Mode
  readonly work: Work
  readonly perRun: number
}

export interface RecountPoint {
  readonly mode: Mode
  readonly runs: number
  readonly missing: readonly { what: string; runs: number; example: string }[]
}

export interface SittingFigures {
  readonly points: Point[]
  readonly approvals: ApprovalPoint[]
  readonly transactions: TransactionPoint[]
  readonly idle: ({ readonly mode: Mode; readonly transactionsPerSecond: number } & IdleFigures)[]
  readonly memory: { readonly mode: Mode; readonly mb: Readonly<Record<string, number>> }[]
  readonly recounts: RecountPoint[]
  /** Rounds without traces, and with a tenth of them recorded. */
  readonly tracing: TracingPoint[]
}

export interface TracingPoint {
  readonly isTraced: boolean
  readonly clients: number
  readonly rounds: readonly LoadFigures[]
}

/** Where and how a subject of the sitting is started. */
export type SubjectPlace = Pick<SubjectConfig, "databases" | "adminUrl" | "postmaster">

const idleMs = 30_000
/** Runs that wait for an approval at the same time. */
export const pendings: readonly number[] = [1, 16]

export async function sit(
  plan: SittingPlan,
  server: BenchServer,
  tell: (what: string) => void,
): Promise<SittingFigures> {
  const figures: SittingFigures = {
    points: [],
    approvals: [],
    transactions: [],
    idle: [],
    memory: [],
    recounts: [],
    tracing: [],
  }
  await using stack = new AsyncDisposableStack()
  const databases = await server.databases("bench")
  const floor = stack.use(await startSubject(configOf("floor", plan, server, databases)))
  for (const mode of plan.modes) {
    tell(`${mode}: starting`)
    await using mesh = await startSubject(configOf(mode, plan, server, databases))
    await measureLoad({ mode, plan, floor, mesh, tell, figures }, server)
    await measureApprovals({ mode, plan, floor, mesh, tell, figures })
    figures.memory.push({ mode, mb: await mesh.ask("memory", {}) })
    if (plan.isThorough)
      await measureTransactions({ mode, plan, floor, mesh, tell, figures }, server)
    tell(`${mode}: recounting`)
    figures.recounts.push({ mode, ...(await mesh.ask("recount", {})) })
  }
  if (plan.isThorough && plan.modes.includes("local")) {
    figures.tracing.push(...(await measureTracing(plan, server, tell)))
  }
  return figures
}

interface Measurement {
  readonly mode: Mode
  readonly plan: SittingPlan
  readonly floor: SubjectProcess
  readonly mesh: SubjectProcess
  readonly tell: (what: string) => void
  readonly figures: SittingFigures
}

async function measureLoad(
  { mode, plan, floor, mesh, tell, figures }: Measurement,
  server: BenchServer,
): Promise<void> {
  const { ms, warmMs, profileFolder } = plan
  const works: readonly Work[] = ["floor", ...groupings, "edge"]
  const on = (work: Work) => (work === "floor" ? floor : mesh)
  const busiest = Math.max(...plan.clients)
  for (const work of works) await on(work).ask("load", { work, clients: busiest, ms: warmMs })
  for (const clients of plan.clients) {
    const points = works.map((work) => ({ mode, work, clients, rounds: [] as LoadFigures[] }))
    figures.points.push(...points)
    for (let round = 1; round <= plan.rounds; round++) {
      for (const { work, rounds } of points) {
        tell(`${mode}, ${clients} clients, round ${round} of ${plan.rounds}: ${work}`)
        const load = () => on(work).ask("load", { work, clients, ms })
        rounds.push(
          profileFolder === undefined || round > 1
            ? await load()
            : await profiled(load, {
                subject: on(work),
                folder: profileFolder,
                name: `${mode}-${work}-${clients}`,
                adminUrl: server.adminUrl,
              }),
        )
      }
    }
  }
}

interface Profiling {
  readonly subject: SubjectProcess
  readonly folder: string
  readonly name: string
  readonly adminUrl: string
}

/** The load with a profile of the subject's process, and the statements that PostgreSQL did. */
async function profiled(
  load: () => Promise<LoadFigures>,
  { subject, folder, name, adminUrl }: Profiling,
): Promise<LoadFigures> {
  await resetStatements(adminUrl)
  await subject.ask("profile", { file: undefined })
  const figures = await load()
  const file = path.join(folder, `${name}.cpuprofile`)
  await subject.ask("profile", { file })
  const { runs } = figures
  const cpu = summarise(JSON.parse(readFileSync(file, "utf8")))
  const statements = statementTable(await readStatements(adminUrl), runs)
  writeFileSync(
    path.join(folder, `${name}.txt`),
    `${name}, ${runs} runs\n${profileTables(cpu, runs)}\n${statements}\n`,
  )
  return figures
}

async function measureApprovals(measurement: Measurement): Promise<void> {
  const { mode, plan, floor, mesh, tell, figures } = measurement
  const works = ["floor", ...groupings] as const
  for (const pending of pendings) {
    const points = works.map((work) => ({ mode, work, pending, rounds: [] as Latencies[] }))
    figures.approvals.push(...points)
    for (let round = 1; round <= plan.rounds; round++) {
      for (const { work, rounds } of points) {
        tell(`${mode}, ${pending} waiting for approval, round ${round} of ${plan.rounds}: ${work}`)
        const order = { work, pending, ms: plan.ms }
        rounds.push(await (work === "floor" ? floor : mesh).ask("approvals", order))
      }
    }
  }
}

async function measureTransactions(measurement: Measurement, server: BenchServer): Promise<void> {
  const { mode, plan, floor, mesh, tell, figures } = measurement
  const clients = Math.max(...plan.clients)
  tell(`${mode}: idle`)
  const atRest = await server.transactions()
  const idle = await mesh.ask("idle", { ms: idleMs })
  let before = await server.transactions()
  const transactionsPerSecond = (before - atRest) / ((idleMs + settleMs) / 1_000)
  figures.idle.push({ mode, transactionsPerSecond, ...idle })
  for (const work of ["floor", ...groupings] as const) {
    tell(`${mode}, transactions per run, ${clients} clients: ${work}`)
    const on = work === "floor" ? floor : mesh
    const { runs } = await on.ask("load", { work, clients, ms: plan.ms })
    const after = await server.transactions()
    // What is polled while nothing runs is no run's.
    const polled = transactionsPerSecond * (settleMs / 1_000)
    figures.transactions.push({ mode, work, perRun: (after - before - polled) / runs })
    before = after
  }
}

/** Two meshes with data of their own, one of which records a tenth of its traces, in turns. */
async function measureTracing(
  plan: SittingPlan,
  server: BenchServer,
  tell: (what: string) => void,
): Promise<readonly TracingPoint[]> {
  await using stack = new AsyncDisposableStack()
  const sink = fork(path.join(import.meta.dirname, "trace-sink.ts"))
  stack.defer(() => {
    sink.disconnect()
  })
  const [port] = await once(sink, "message")
  const traced = {
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    OTEL_TRACES_SAMPLER_ARG: "0.1",
  }
  const start = async (set: string, env: SubjectConfig["env"]) => {
    const config = configOf("local", plan, server, await server.databases(set))
    return stack.use(await startSubject({ ...config, env }))
  }
  tell("tracing: starting")
  const clients = Math.max(...plan.clients)
  const points = [
    { isTraced: false, clients, mesh: await start("bench", {}), rounds: [] as LoadFigures[] },
    { isTraced: true, clients, mesh: await start("traced", traced), rounds: [] as LoadFigures[] },
  ]
  const order = { work: "grouped", clients } as const
  for (const { mesh } of points) await mesh.ask("load", { ...order, ms: plan.warmMs })
  for (let round = 1; round <= plan.rounds; round++) {
    for (const { isTraced, mesh, rounds } of points) {
      tell(`tracing ${isTraced ? "10 %" : "off"}, round ${round} of ${plan.rounds}`)
      rounds.push(await mesh.ask("load", { ...order, ms: plan.ms }))
    }
  }
  return points.map(({ mesh: _, ...point }) => point)
}

function configOf(
  kind: SubjectConfig["kind"],
  plan: SittingPlan,
  { adminUrl, postmaster }: BenchServer,
  databases: BenchDatabases,
): SubjectConfig {
  const { profileFolder } = plan
  return { kind, databases, adminUrl, postmaster, env: {}, profileFolder, members: [] }
}

/** A point's rounds, each with the figures of one kind of measurement. */
interface Rounds<Figures> {
  readonly rounds: readonly Figures[]
}

/** A figure's median over the rounds. */
export function over<F>(point: Rounds<F>, figure: (round: F) => number): number {
  return median(point.rounds.map(figure))
}

/** The median of the ratios between two points, round by round. */
export function ratio<F>(
  point: Rounds<F>,
  base: Rounds<F> | undefined,
  figure: (round: F) => number,
): number {
  return median(
    point.rounds.flatMap((round, index) => {
      const other = base?.rounds[index]
      return other === undefined ? [] : [figure(round) / figure(other)]
    }),
  )
}
