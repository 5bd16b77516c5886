/** Faults that come by the clock, not at a named point: while runs go on, and until all have ended. */
import { leaseMs } from "./cluster.ts"
import { sleep } from "./faults.ts"
import { hasBeenRefused } from "./late-delivery.ts"
import type { RunShape } from "./plans.ts"
import { mixedShapes } from "./run-shapes.ts"
import type { Scenario, ScenarioContext } from "./scenario.ts"
import { wireFaults } from "./tcp-proxy.ts"

/** A fault that goes on until it is told to stop. */
type Fault = (context: ScenarioContext, signal: AbortSignal) => Promise<void>

const maxLive = 64

/** Orchestrators, tools services and the provider die at any moment, every few seconds. */
export const randomKills: Scenario = {
  name: "random kills",
  run: (context) =>
    underLoad(context, slow(context), async ({ cluster, random }, signal) => {
      const processes = [...cluster.orchestrators, ...cluster.tools, cluster.provider]
      while (!signal.aborted) {
        await wait(random.between(1_000, 3_000), signal)
        random.pick(processes.filter(({ isUp }) => isUp)).kill()
      }
    }),
}

/** A replica stands still for three leases and goes on as if nothing had happened. */
export const zombies: Scenario = {
  name: "zombies",
  run: (context) =>
    underLoad(context, slow(context), async ({ cluster, random, faults }, signal) => {
      while (!signal.aborted) {
        const victim = random.pick([...cluster.orchestrators, ...cluster.tools])
        victim.freeze()
        faults.count(`freeze of ${victim.name}`)
        await wait(3 * leaseMs, signal)
        victim.thaw()
        await wait(leaseMs, signal)
      }
    }),
  afterwards: hasBeenRefused,
}

/** PostgreSQL restarts, crashes, and ends every connection. */
export const postgresBounces: Scenario = {
  name: "postgres bounces",
  run: (context) =>
    underLoad(context, slow(context), async ({ cluster, random, faults }, signal) => {
      const { postgres } = cluster
      for (let waitMs = 1_500; !signal.aborted; waitMs = random.between(5_000, 10_000)) {
        await wait(waitMs, signal)
        const how = random.pick(["fast", "immediate", "terminate"] as const)
        faults.count(`postgres ${how}`)
        if (how === "terminate") await postgres.terminateConnections()
        else await postgres.bounce(how, random.between(0, 2_000))
      }
    }),
}

/** What is between the second replicas and what they need: cut, swallowed, one-way, slow. */
export const partitions: Scenario = {
  name: "partitions",
  run: (context) =>
    underLoad(context, slow(context), async ({ cluster, random, faults }, signal) => {
      const proxies = Object.entries(cluster.proxies)
      while (!signal.aborted) {
        const [between, proxy] = random.pick(proxies)
        const state = random.pick(wireFaults)
        faults.count(`${state} of ${between}`)
        proxy.set(state)
        await wait(random.between(500, 4_000), signal)
        proxy.set("pass")
        await wait(500, signal)
      }
    }),
}

/** Clocks of single processes jump: a little, as time services do, and by hours. */
export const clockJumps: Scenario = {
  name: "clock jumps",
  run: (context) =>
    underLoad(context, slow(context), async ({ cluster, random, faults }, signal) => {
      const processes = [...cluster.orchestrators, ...cluster.tools]
      while (!signal.aborted) {
        const victim = random.pick(processes)
        const offsetMs = random.pick(clockOffsetsMs)
        faults.count(`clock ${offsetMs > 0 ? "+" : ""}${offsetMs / 1000} s`)
        victim.setClock(offsetMs)
        await wait(random.between(1_000, 3_000), signal)
        victim.setClock(0)
        await wait(500, signal)
      }
    }),
  // A replica whose tokens nobody takes can have nothing judged, and what is not judged is denied.
  mayEnd: ["failed policy_denied", "failed tool_failed"],
  mayRefuse: ["UNAUTHENTICATED"],
}

/** Tools that hang, crash, answer twice, late, nothing, too much, or with a failure. */
export const rudeTools: Scenario = {
  name: "rude tools",
  run: async ({ workload, runs, random }) => {
    await workload.start(
      mixedShapes(runs, random.between(0, 2 ** 31)).map((shape): RunShape => {
        const step = Math.floor(random.between(0, shape.stepCount))
        return { ...shape, trouble: { step, ...random.pick(troubles) } }
      }),
      maxLive,
    )
  },
}

const troubles = [
  { mode: "hang_before" },
  { mode: "hang_after" },
  { mode: "crash_before" },
  { mode: "crash_after" },
  { mode: "twice" },
  { mode: "none" },
  { mode: "late", delayMs: 3_000 },
  { mode: "late_effect", delayMs: 3_000 },
  { mode: "big" },
  { mode: "too_big" },
  { mode: "error" },
] as const

const hourMs = 3_600_000
const clockOffsetsMs = [1_000, -1_000, 30_000, -30_000, hourMs, -hourMs, 20 * 365 * 24 * hourMs]

/** Starts the runs under the fault, which ends when they all have been started and most have ended. */
async function underLoad(
  context: ScenarioContext,
  shapes: readonly RunShape[],
  fault: Fault,
): Promise<void> {
  const done = new AbortController()
  const faulting = fault(context, done.signal)
  await context.workload.start(shapes, maxLive)
  done.abort()
  await faulting
}

/** Runs that take long enough for something to happen to them. */
function slow({ runs, random }: ScenarioContext): readonly RunShape[] {
  return mixedShapes(runs, random.between(0, 2 ** 31)).map((shape) => ({
    ...shape,
    delayMs: Math.round(random.between(0, 400)),
  }))
}

async function wait(ms: number, signal: AbortSignal): Promise<void> {
  const end = Date.now() + ms
  while (Date.now() < end && !signal.aborted) await sleep(Math.min(50, end - Date.now()))
}
