/** What was done to the cluster, and undoing it. */
import type { Cluster } from "./cluster.ts"
import type { Death, SupervisedProcess } from "./supervised-process.ts"

/** Counts of faults by kind. Kills are counted from the deaths of the processes themselves. */
export class FaultLog {
  readonly #counts = new Map<string, number>()

  count(kind: string, times = 1): void {
    this.#counts.set(kind, (this.#counts.get(kind) ?? 0) + times)
  }

  /** Every kind with its number, deaths included. */
  summary(deaths: readonly Death[]): Readonly<Record<string, number>> {
    const counts = new Map(this.#counts)
    for (const { cause, detail } of deaths) {
      const kind = cause === "kill_point" ? `kill at ${detail}` : `kill (${cause})`
      counts.set(kind, (counts.get(kind) ?? 0) + 1)
    }
    return Object.fromEntries([...counts].sort(([a], [b]) => a.localeCompare(b)))
  }
}

export function processesOf(cluster: Cluster): readonly SupervisedProcess[] {
  const { orchestrators, tools, provider, others } = cluster
  return [...orchestrators, ...tools, provider, ...others]
}

export function deathsOf(cluster: Cluster): readonly Death[] {
  return processesOf(cluster).flatMap(({ deaths }) => deaths)
}

/** Ends every fault: from here on everything must come right by itself. */
export function heal(cluster: Cluster): void {
  for (const each of processesOf(cluster)) {
    each.disarm()
    each.thaw()
    each.start()
    each.setClock(0)
  }
  for (const proxy of Object.values(cluster.proxies)) proxy.set("pass")
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
