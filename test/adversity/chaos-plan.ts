/** Which fault comes when: every kill point with every class, and everything else in between. */
import { killPoints } from "../../mesh/kill-points.ts"
import {
  clockJumps,
  partitions,
  postgresBounces,
  randomKills,
  rudeTools,
  zombies,
} from "./fault-scenarios.ts"
import { fullDisk, whyNoFullDisk } from "./full-disk.ts"
import { effectClasses } from "./history.ts"
import { killScenario, killSweep } from "./kill-scenario.ts"
import { deliveries } from "./late-delivery.ts"
import { restore } from "./restore.ts"
import type { Scenario } from "./scenario.ts"

export interface Turn {
  readonly scenario: Scenario
  readonly runs: number
}

const runsPerCell = 140
const killsPerCell = 5

/** What is done beside deaths at kill points. */
export const otherTurns: readonly Turn[] = [
  { scenario: randomKills, runs: 200 },
  { scenario: postgresBounces, runs: 300 },
  { scenario: zombies, runs: 120 },
  { scenario: partitions, runs: 200 },
  { scenario: rudeTools, runs: 110 },
  { scenario: deliveries, runs: 60 },
  { scenario: restore, runs: 120 },
  { scenario: clockJumps, runs: 120 },
  ...(whyNoFullDisk() === undefined ? [{ scenario: fullDisk, runs: 80 }] : []),
]

export const killTurns: readonly Turn[] = killPoints.flatMap((point) =>
  effectClasses.map((effect) => ({
    scenario: killScenario(point, { effects: [effect], kills: killsPerCell, maxLive: 70 }),
    runs: runsPerCell,
  })),
)

/** The same points and numbers, but one load for all points: what one leaves behind meets the next. */
const sweepTurns: readonly Turn[] = effectClasses.map((effect) => ({
  scenario: killSweep({ effects: [effect], kills: killsPerCell, maxLive: runsPerCell }),
  runs: runsPerCell * killPoints.length,
}))

/** What cannot be done here, and why, one line each. */
export function skipped(): readonly string[] {
  const disk = whyNoFullDisk()
  return [
    ...(disk === undefined ? [] : [disk]),
    "a clock that jumps under PostgreSQL itself: needs libfaketime; those of the services jump",
  ]
}

/** Turns without end: after every three deaths at kill points something else. */
export function* turns(only: string | undefined): Generator<Turn> {
  const chosen = [...sweepTurns, ...killTurns, ...otherTurns].filter(({ scenario }) =>
    scenario.name.startsWith(only ?? ""),
  )
  if (chosen.length === 0) throw new Error(`no scenario begins with "${only}"`)
  if (only !== undefined) for (;;) yield* chosen
  for (let n = 0; ; n++) {
    const kill = killTurns[n % killTurns.length]
    if (kill !== undefined) yield kill
    const other = otherTurns[Math.floor(n / 3) % otherTurns.length]
    if (n % 3 === 2 && other !== undefined) yield other
  }
}
