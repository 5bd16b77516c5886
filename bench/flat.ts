/**
 * Whether the product stays as fast as it is when much lies in its database: a mesh on an empty
 * database and one on a seeded one, in turns.
 */
import type { BenchServer } from "./bench-server.ts"
import type { Latencies } from "./closed-loop.ts"
import { ensureSeed, type SeedSize } from "./seed.ts"
import { pendings, type RecountPoint, type SittingPlan } from "./sitting.ts"
import type { IdleFigures, LoadFigures, SubjectConfig } from "./subject.ts"
import { type SubjectProcess, startSubject } from "./subject-process.ts"

export interface FlatFigures {
  readonly size: SeedSize
  readonly loads: readonly FlatPoint<LoadFigures>[]
  readonly approvals: readonly FlatPoint<Latencies>[]
  /** Each mesh alone, half a minute without a run. */
  readonly idle: { readonly empty: IdleFigures; readonly seeded: IdleFigures }
  readonly recounts: readonly RecountPoint[]
}

/** The same figures on the empty and on the seeded database, round by round. */
export interface FlatPoint<Figures> {
  readonly clients: number
  readonly empty: readonly Figures[]
  readonly seeded: readonly Figures[]
}

const idleMs = 30_000

export async function measureFlat(
  plan: SittingPlan,
  server: BenchServer,
  { dataFolder, size }: { readonly dataFolder: string; readonly size: SeedSize },
  tell: (what: string) => void,
): Promise<FlatFigures> {
  const seed = await ensureSeed(server, dataFolder, size, tell)
  await server.drop("bench")
  const { adminUrl, postmaster } = server
  const common = { kind: "local", adminUrl, postmaster, env: {}, profileFolder: undefined } as const
  const configs = {
    empty: { ...common, databases: await server.databases("bench"), members: [] },
    seeded: { ...common, ...seed },
  } satisfies Record<string, SubjectConfig>
  const idle = {
    empty: await measureIdle(configs.empty, () => tell("idle, empty database")),
    seeded: await measureIdle(configs.seeded, () => tell("idle, seeded database")),
  }
  await using empty = await startSubject(configs.empty)
  await using seeded = await startSubject(configs.seeded)
  const both = { empty, seeded }
  for (const mesh of [empty, seeded]) {
    tell("warming up")
    await mesh.ask("load", { work: "grouped", clients: 16, ms: plan.warmMs })
  }
  const loads: FlatPoint<LoadFigures>[] = []
  for (const clients of plan.clients) {
    const order = { work: "grouped", clients, ms: plan.ms } as const
    const what = `${clients} clients`
    loads.push({
      clients,
      ...(await inTurns(plan, both, what, tell, (it) => it.ask("load", order))),
    })
  }
  const approvals: FlatPoint<Latencies>[] = []
  for (const pending of pendings) {
    const order = { work: "grouped", pending, ms: plan.ms } as const
    const rounds = await inTurns(plan, both, `${pending} waiting for approval`, tell, (it) =>
      it.ask("approvals", order),
    )
    approvals.push({ clients: pending, ...rounds })
  }
  tell("recounting")
  const recounts = [
    { mode: "local" as const, ...(await empty.ask("recount", {})) },
    { mode: "local" as const, ...(await seeded.ask("recount", {})) },
  ]
  return { size, loads, approvals, idle, recounts }
}

async function measureIdle(config: SubjectConfig, tell: () => void): Promise<IdleFigures> {
  tell()
  await using mesh = await startSubject(config)
  // What follows a start is no idling.
  await mesh.ask("idle", { ms: idleMs / 3 })
  return await mesh.ask("idle", { ms: idleMs })
}

async function inTurns<Figures>(
  plan: SittingPlan,
  both: { readonly empty: SubjectProcess; readonly seeded: SubjectProcess },
  what: string,
  tell: (what: string) => void,
  measure: (mesh: SubjectProcess) => Promise<Figures>,
) {
  const empty: Figures[] = []
  const seeded: Figures[] = []
  for (let round = 1; round <= plan.rounds; round++) {
    tell(`${what}, round ${round} of ${plan.rounds}`)
    empty.push(await measure(both.empty))
    seeded.push(await measure(both.seeded))
  }
  return { empty, seeded }
}
