/** Deaths at a named point of a step, by every class of effect. */
import { type KillPoint, killPoints } from "../../mesh/kill-points.ts"
import type { Cluster } from "./cluster.ts"
import { sleep } from "./faults.ts"
import type { EffectClass } from "./history.ts"
import type { KillOrder } from "./kill-switch.ts"
import type { RunShape } from "./plans.ts"
import type { Random } from "./random.ts"
import type { Scenario } from "./scenario.ts"
import type { SupervisedProcess } from "./supervised-process.ts"

export interface KillOptions {
  readonly effects: readonly EffectClass[]
  /** How often the point is to kill, as long as there are runs to pass it. */
  readonly kills: number
  readonly maxLive: number
}

/** How long a victim may take to pass its point; where another one has to follow it, its lease ends first. */
const patienceMs = (point: KillPoint) =>
  point === "in_recovery" || point === "twice_in_a_row" ? 8_000 : 2_000

/** How many loads a point is given until somebody dies at it. */
const loadsPerPoint = 3

/** Kills at one point, again and again, while runs of these classes are under way. */
export function killScenario(point: KillPoint, options: KillOptions): Scenario {
  const { effects, kills, maxLive } = options
  return {
    name: `kill ${point} (${effects.join(", ")})`,
    async run({ cluster, workload, runs, random }) {
      const shapes = Array.from({ length: runs }, (_, n) =>
        shapeFor(point, effects[n % effects.length] ?? "read", random),
      )
      const done = new AbortController()
      const killing = keepKilling(cluster, point, { kills, random, signal: done.signal })
      await workload.start(shapes, maxLive)
      while (workload.liveCount > 0 && !(await isSettled(killing))) await sleep(50)
      done.abort()
      await killing
    },
  }
}

/** Kills at every point, one after the other, while one load goes on. */
export function killSweep({ effects, kills, maxLive }: KillOptions): Scenario {
  return {
    name: `kill at every point (${effects.join(", ")})`,
    async run({ cluster, workload, runs, random, note }) {
      const perPoint = Math.ceil(runs / killPoints.length)
      for (const point of killPoints) {
        const before = killsAt(cluster, point)
        const somebodyDied = () => killsAt(cluster, point) > before
        // A load that happens to pass everybody but the victim is over before another one is armed.
        for (let load = 0; load < loadsPerPoint && !somebodyDied(); load++) {
          const done = new AbortController()
          const killing = keepKilling(cluster, point, { kills, random, signal: done.signal })
          const shapes = Array.from({ length: perPoint }, (_, n) =>
            shapeFor(point, effects[n % effects.length] ?? "read", random),
          )
          await workload.start(shapes, maxLive)
          while (workload.liveCount > 0 && !(await isSettled(killing))) await sleep(25)
          done.abort()
          await killing
        }
        if (!somebodyDied()) note(`nobody died at ${point}`)
      }
    },
  }
}

/** How often processes died at the point so far. */
export function killsAt(cluster: Cluster, point: KillPoint): number {
  return candidates(cluster, point)
    .flatMap(({ deaths }) => deaths)
    .filter(({ cause, detail }) => cause === "kill_point" && detail === point).length
}

/** Arms one process after the other until the point has killed that often, or nobody passes it. */
async function keepKilling(
  cluster: Cluster,
  point: KillPoint,
  options: { readonly kills: number; readonly random: Random; readonly signal: AbortSignal },
): Promise<void> {
  const { kills, random, signal } = options
  const before = killsAt(cluster, point)
  const processes = candidates(cluster, point)
  let armedAt = Number.NEGATIVE_INFINITY
  while (!signal.aborted && killsAt(cluster, point) - before < kills) {
    // A victim that has nothing to do with what goes on is let off for another one.
    const isFree =
      processes.every(({ isSpent }) => isSpent) || Date.now() - armedAt > patienceMs(point)
    if (isFree && processes.some(({ isUp }) => isUp)) {
      armAll(processes, point, random)
      armedAt = Date.now()
    }
    await sleep(25)
  }
  for (const each of processes) each.disarm()
}

function armAll(processes: readonly SupervisedProcess[], point: KillPoint, random: Random): void {
  const passing = 1 + Math.floor(random.between(0, 6))
  const victim = random.pick(processes.filter(({ isUp }) => isUp))
  const first: KillOrder = { point: "after_intent", passing }
  switch (point) {
    case "in_recovery":
      // Whoever takes over from the first victim dies too.
      for (const each of processes) {
        each.arm(each === victim ? [first, { point, passing: 1 }] : [{ point, passing: 1 }])
      }
      return
    case "twice_in_a_row":
      for (const each of processes) {
        each.arm(each === victim ? [first, { point, passing: 1 }] : [{ point, passing: 2 }])
      }
      return
    case "during_approval_wait":
    case "during_heartbeat":
    case "during_outbox_publish":
    case "during_settle":
      // These are few and far between: whoever passes first dies, or several at once.
      for (const each of processes) each.arm([{ point, passing: 1 }])
      return
    default:
      for (const each of processes) each.arm(each === victim ? [{ point, passing }] : [])
  }
}

/** The processes that pass the point. */
function candidates(cluster: Cluster, point: KillPoint): readonly SupervisedProcess[] {
  const { orchestrators, tools, provider } = cluster
  switch (point) {
    case "after_effect":
      return [provider]
    case "after_send":
    case "after_reply":
      return tools
    case "after_outcome":
    case "during_settle":
      return [...tools, ...orchestrators]
    default:
      return orchestrators
  }
}

/** Runs that pass the point, beside what all runs do. */
function shapeFor(point: KillPoint, effect: EffectClass, random: Random): RunShape {
  const shape: RunShape = {
    effect,
    stepCount: 3,
    ...(random.next() < 0.25 ? { highStep: Math.floor(random.between(0, 3)) } : {}),
    ...(effect === "unsafe" && random.next() < 0.25 ? { isBlind: true } : {}),
  }
  switch (point) {
    case "during_approval_wait":
      return { ...shape, highStep: 1 }
    case "during_heartbeat":
      return { ...shape, delayMs: 600 }
    case "during_settle":
      if (effect === "unsafe" && random.next() < 0.5) {
        return { ...shape, trouble: { step: 1, mode: "none" } }
      }
      return random.next() < 0.5
        ? { ...shape, delayMs: 500, cancelAfterMs: random.between(200, 1_500) }
        : shape
    default:
      return shape
  }
}

async function isSettled(work: Promise<void>): Promise<boolean> {
  const pending = Symbol("pending")
  return (await Promise.race([work, Promise.resolve(pending)])) !== pending
}
