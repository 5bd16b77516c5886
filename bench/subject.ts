/**
 * One thing that is measured, in a process of its own: plain code, the mesh in this process, or the
 * client of a mesh in many. Takes orders from its parent and ends with it.
 *
 * 1. What is charged to a run is everything that its processes and PostgreSQL used from its start
 *    until telemetry had it, not until the starter had its answer.
 */

import { writeFileSync } from "node:fs"
import { Session } from "node:inspector/promises"
import pg from "pg"
import { type BenchMesh, startLocalMesh, startMeshProcesses } from "./bench-mesh.ts"
import type { BenchDatabases } from "./bench-server.ts"
import { closedLoop, type Latencies, type LoopFigures, latencies } from "./closed-loop.ts"
import type { Grouping } from "./effect-provider.ts"
import { createFloor } from "./floor.ts"
import { costOf, type Named, readMemory } from "./machine.ts"
import { createRecounter, type Recount } from "./recount.ts"
import { type BenchMembers, createRunStarter } from "./run-starter.ts"
import type { SeedRuns } from "./seed.ts"

/** What runs: the plain code, or the mesh with one of its providers, reached one way or the other. */
export type Work = "floor" | Grouping | "edge"

export interface SubjectConfig {
  readonly kind: "floor" | "local" | "processes"
  readonly databases: BenchDatabases
  readonly adminUrl: string
  readonly postmaster: number
  readonly env: Readonly<Record<string, string>>
  readonly profileFolder: string | undefined
  /** Of workspaces that are there already; new ones are made where there are none. */
  readonly members: readonly BenchMembers[]
}

export interface LoadFigures extends LoopFigures {
  /** CPU milliseconds per run by process, PostgreSQL as `postgres`. */
  readonly cpuMs: Readonly<Record<string, number>>
  readonly cpuMsTotal: number
  readonly walBytes: number
  readonly othersCores: number
  /** How long telemetry took to catch up after the last run had ended. */
  readonly drainMs: number
}

export interface IdleFigures {
  /** Percent of one core by process. */
  readonly corePercent: Readonly<Record<string, number>>
  readonly memoryMb: Readonly<Record<string, number>>
}

/** What a parent may ask for, and what it gets. */
export interface Orders {
  load(order: { readonly work: Work; readonly clients: number; readonly ms: number }): LoadFigures
  approvals(order: {
    readonly work: Work
    readonly pending: number
    readonly ms: number
  }): Latencies
  memory(order: Readonly<Record<never, never>>): Readonly<Record<string, number>>
  idle(order: { readonly ms: number }): IdleFigures
  recount(order: Readonly<Record<never, never>>): Recount
  seed(order: Readonly<Record<never, never>>): SeedRuns
  profile(order: { readonly file: string | undefined }): undefined
}

export type Order = {
  readonly [Name in keyof Orders]: { readonly name: Name } & Parameters<Orders[Name]>[0]
}[keyof Orders]

export type Reply =
  | { readonly kind: "ready" }
  | { readonly kind: "done"; readonly result: unknown }
  | { readonly kind: "failed"; readonly message: string }

interface Subject extends AsyncDisposable {
  readonly processes: Named
  run(work: Work): Promise<void>
  approve(work: Work): Promise<number>
  drained(): Promise<void>
  recount(): Promise<Recount>
  seed(): Promise<SeedRuns>
}

async function createSubject(config: SubjectConfig): Promise<Subject> {
  if (config.kind === "floor") {
    const floor = await createFloor(config.databases.floorUrl)
    return {
      ...floor,
      processes: { node: process.pid },
      async drained() {},
      recount: async () => ({ runs: 0, missing: [] }),
      seed: async () => ({ members: [], finished: [], waiting: [] }),
      [Symbol.asyncDispose]: () => floor[Symbol.asyncDispose](),
    }
  }
  await using stack = new AsyncDisposableStack()
  const mesh: BenchMesh = stack.use(
    await (config.kind === "local" ? startLocalMesh(config) : startMeshProcesses(config)),
  )
  const recounter = stack.use(createRecounter(config.adminUrl, config.databases))
  const starter = await createRunStarter(mesh, config.members)
  const owned = stack.move()
  return {
    processes: mesh.processes,
    run: (work) =>
      work === "edge" ? starter.runThroughEdge("grouped") : starter.run(work as Grouping),
    approve: (work) => starter.approve(work as Grouping),
    drained: () => recounter.drained(),
    recount: () => recounter.recount(starter.acknowledged),
    seed: async () => ({ members: starter.members, ...(await starter.seed()) }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function serve(config: SubjectConfig): Promise<void> {
  await using stack = new AsyncDisposableStack()
  const subject = stack.use(await createSubject(config))
  const admin = new pg.Client({ connectionString: config.adminUrl })
  await admin.connect()
  stack.defer(() => admin.end())
  const charged = { ...subject.processes, postgres: config.postmaster }
  const session = new Session()

  async function readWal(): Promise<number> {
    const text = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as bytes"
    const { rows } = await admin.query<{ bytes: number }>(text)
    return rows[0]?.bytes ?? Number.NaN
  }

  const orders: { [Name in keyof Orders]: (order: never) => Promise<ReturnType<Orders[Name]>> } = {
    async load({ work, clients, ms }: Parameters<Orders["load"]>[0]) {
      const walBefore = await readWal()
      const [{ loop, drainMs }, cost] = await costOf(charged, async () => {
        const figures = await closedLoop({ clients, ms }, () => subject.run(work))
        const at = performance.now()
        await subject.drained() // (1)
        return { loop: figures, drainMs: performance.now() - at }
      })
      const walBytes = ((await readWal()) - walBefore) / loop.runs
      const cpuMs = Object.fromEntries(
        Object.entries(cost.cpuSeconds).map(([name, it]) => [name, (it * 1_000) / loop.runs]),
      )
      const cpuMsTotal = Object.values(cpuMs).reduce((sum, one) => sum + one, 0)
      return { ...loop, cpuMs, cpuMsTotal, walBytes, othersCores: cost.othersCores, drainMs }
    },
    async approvals({ work, pending, ms }: Parameters<Orders["approvals"]>[0]) {
      const took: number[] = []
      const end = performance.now() + ms
      const person = async () => {
        do took.push(await subject.approve(work))
        while (performance.now() < end)
      }
      await Promise.all(Array.from({ length: pending }, person))
      return latencies(took)
    },
    async memory() {
      return readMemory(charged)
    },
    async idle({ ms }: Parameters<Orders["idle"]>[0]) {
      const [, { seconds, cpuSeconds }] = await costOf(
        charged,
        () => new Promise((resolve) => setTimeout(resolve, ms)),
      )
      const corePercent = Object.fromEntries(
        Object.entries(cpuSeconds).map(([name, it]) => [name, (it / seconds) * 100]),
      )
      return { corePercent, memoryMb: readMemory(charged) }
    },
    async recount() {
      await subject.drained()
      return subject.recount()
    },
    async seed() {
      const runs = await subject.seed()
      await subject.drained()
      return runs
    },
    async profile({ file }: Parameters<Orders["profile"]>[0]) {
      if (file === undefined) {
        session.connect()
        await session.post("Profiler.enable")
        await session.post("Profiler.start")
      } else {
        const { profile } = await session.post("Profiler.stop")
        session.disconnect()
        writeFileSync(file, JSON.stringify(profile))
      }
      return undefined
    },
  }

  const ended = Promise.withResolvers<void>()
  process.on("disconnect", () => ended.resolve())
  process.on("message", (order: Order) => {
    orders[order.name](order as never).then(
      (result) => send({ kind: "done", result }),
      (error: unknown) => send({ kind: "failed", message: String(error) }),
    )
  })
  send({ kind: "ready" })
  await ended.promise
}

function send(reply: Reply): void {
  process.send?.(reply)
}

process.once("message", (config: SubjectConfig) => {
  serve(config).then(
    () => process.exit(0),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
