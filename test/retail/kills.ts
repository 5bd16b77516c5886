/** Deaths at random while tasks are replayed: of orchestrators, tools services and the shop. */
import type { KillPoint } from "../../mesh/kill-points.ts"
import type { Cluster } from "../adversity/cluster.ts"
import { heal } from "../adversity/faults.ts"
import type { Random } from "../adversity/random.ts"
import type { SupervisedProcess } from "../adversity/supervised-process.ts"

export interface Killing extends AsyncDisposable {
  /** To be told of each run's end: deaths follow the work, so that a slow machine gets on too. */
  runEnded(): void
}

/**
 * Ends one process after the other with SIGKILL, each as often as the others, until it is disposed of:
 * half of them at any moment, the others at a moment of a call that is worst for them. Then all is
 * well again.
 */
export function startKilling(
  cluster: Cluster,
  options: { readonly random: Random; readonly runsPerDeath: number },
): Killing {
  const { random, runsPerDeath } = options
  const { orchestrators, tools, provider } = cluster
  const victims: readonly Victim[] = [
    ...orchestrators.map((victim) => [victim, orchestratorPoints] as const),
    ...tools.map((victim) => [victim, toolsPoints] as const),
    [provider, providerPoints],
  ]
  let next: Victim[] = []
  let ended = 0
  const killOne = () => {
    if (next.length === 0) next = [...victims]
    const chosen = random.pick(next)
    next = next.filter((each) => each !== chosen)
    const [victim, points] = chosen
    if (random.next() < 0.5) victim.kill()
    else victim.arm([{ point: random.pick(points), passing: Math.ceil(random.between(0, 4)) }])
  }
  killOne()
  return {
    runEnded() {
      ended++
      if (ended % runsPerDeath === 0) killOne()
    },
    async [Symbol.asyncDispose]() {
      heal(cluster)
    },
  }
}

type Victim = readonly [SupervisedProcess, readonly KillPoint[]]

const providerPoints: readonly KillPoint[] = ["after_effect"]
const orchestratorPoints: readonly KillPoint[] = [
  "before_intent",
  "after_intent",
  "after_outcome",
  "during_approval_wait",
]
const toolsPoints: readonly KillPoint[] = ["after_send", "after_reply", "after_outcome"]
