/** One thing that goes wrong, the load it goes wrong under, and what may be said of it afterwards. */
import type { Reason } from "../../mesh/errors.ts"
import type { Cluster } from "./cluster.ts"
import { readWorld } from "./dump.ts"
import { deathsOf, type FaultLog, heal, sleep } from "./faults.ts"
import { History, type StartedRun } from "./history.ts"
import { checkAll, type InvariantName } from "./invariants.ts"
import type { Random } from "./random.ts"
import { type Reach, reachOf } from "./reach.ts"
import { Workload } from "./workload.ts"
import type { World } from "./world.ts"

export interface ScenarioContext {
  readonly cluster: Cluster
  readonly workload: Workload
  readonly history: History
  readonly random: Random
  readonly faults: FaultLog
  /** How many runs to start. */
  readonly runs: number
  /** How long runs are given to end once everything is well again. */
  readonly settleMs?: number
  /** Notes something that should not be. */
  note(anomaly: string): void
}

export interface Scenario {
  readonly name: string
  run(context: ScenarioContext): Promise<void>
  /** After everything was healed and every run ended, before the world is read. */
  afterwards?(context: ScenarioContext): Promise<void>
  /** Ends of runs that this fault may cause, as `state reason`. */
  readonly mayEnd?: readonly string[]
  /** What clients may be told because of this fault, and ask again; beside that nobody is there. */
  readonly mayRefuse?: readonly Reason[]
  /** An invariant that this fault is free to break. */
  readonly isFreeToBreak?: InvariantName
}

export interface ScenarioResult {
  readonly name: string
  readonly runs: number
  /** How many got as far as a tool, and how many were lost on their way with the provider. */
  readonly reach: Reach
  readonly ends: Readonly<Record<string, number>>
  readonly anomalies: readonly string[]
  readonly elapsedMs: number
}

const longestSettleMs = 120_000

export async function runScenario(
  scenario: Scenario,
  given: Omit<ScenarioContext, "workload" | "history" | "note">,
): Promise<ScenarioResult> {
  const { cluster, settleMs = longestSettleMs } = given
  const startedAt = Date.now()
  const deathsBefore = deathsOf(cluster).length
  const history = new History()
  const { mayRefuse = [] } = scenario
  await using workload = await Workload.open(cluster, history, { workspaces: 4, mayRefuse })
  const noted: string[] = []
  const context = { ...given, workload, history, note: (anomaly: string) => noted.push(anomaly) }
  const note = (error: unknown) => context.note(`the scenario broke off: ${error}`)
  await scenario.run(context).catch(note)
  heal(cluster)
  const isSettled = await workload.settled(settleMs)
  await scenario.afterwards?.(context).catch(note)
  const isCounted = scenario.isFreeToBreak !== "I9"
  const world = await readCaughtUp(context, isCounted)
  const anomalies = [
    ...noted,
    ...(isSettled ? [] : [`${workload.liveCount} runs had not ended ${settleMs / 1000} s later`]),
    ...checkAll(world)
      .filter(({ invariant }) => invariant !== scenario.isFreeToBreak)
      .map(({ invariant, what }) => `${invariant}: ${what}`),
    ...unexplainedEnds(world, scenario.mayEnd ?? []),
    ...surprises(history),
    ...deathsOf(cluster)
      .slice(deathsBefore)
      .filter(({ cause }) => cause === "itself")
      .map(({ process, detail }) => `${process} ended by itself: ${detail}`),
  ]
  return {
    name: scenario.name,
    runs: workload.startedCount,
    reach: reachOf(world, cluster.provider.deaths),
    ends: endsOf(world),
    anomalies,
    elapsedMs: Date.now() - startedAt,
  }
}

/** Telemetry is told a moment later: the world is read once it knows every run's end, or too late. */
async function readCaughtUp(
  { cluster, history, workload, settleMs = longestSettleMs }: ScenarioContext,
  isCounted: boolean,
): Promise<World> {
  const end = Date.now() + settleMs / 2
  for (;;) {
    const world = await readWorld(cluster, history, workload.workspaces)
    const isBehind = isCounted && checkAll(world).some(({ invariant }) => invariant === "I9")
    if (!isBehind || Date.now() > end) return world
    await sleep(250)
  }
}

/** Runs that did not end as they should have, where nothing that was done explains it. */
function unexplainedEnds(world: World, mayEnd: readonly string[]): string[] {
  const cancelled = new Set(
    world.history.filter(({ kind }) => kind === "run_cancelled").map((entry) => runOf(entry)),
  )
  const started = new Map(startedOf(world).map((run) => [run.runId, run]))
  return world.runs.flatMap(({ runId, state, reason, isEnded }) => {
    const run = started.get(runId)
    if (!isEnded || state === "succeeded" || run === undefined) return []
    if (state === "cancelled" && cancelled.has(runId)) return []
    if (mayEnd.includes(`${state} ${reason}`)) return []
    // An unsafe call whose answer was lost may turn out never to have run.
    const mayFail = run.steps.some(({ effect, mode }) => effect === "unsafe" || mode !== "")
    const isTooBig = run.steps.some(({ mode }) => mode === "too_big")
    if (isTooBig && state === "failed" && reason === "result_too_large") return []
    if (mayFail && state === "failed" && reason === "tool_failed") return []
    return [`run ${runId} (${run.steps[0]?.effect}) ended ${state} ${reason}`]
  })
}

function surprises(history: History): string[] {
  return history.entries.flatMap((entry) => (entry.kind === "surprise" ? [entry.what] : []))
}

function endsOf({ runs }: World): Readonly<Record<string, number>> {
  const ends = Map.groupBy(runs, ({ state, reason }) => `${state} ${reason}`.trim())
  return Object.fromEntries([...ends].map(([end, found]) => [end, found.length]))
}

function startedOf({ history }: World): readonly StartedRun[] {
  return history.filter((entry) => entry.kind === "run_started")
}

function runOf(entry: World["history"][number]): string {
  return "runId" in entry ? entry.runId : ""
}
