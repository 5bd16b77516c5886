/** Clients that each start the next run when the last one has ended. */

export interface LoopOptions {
  readonly clients: number
  readonly ms: number
}

export interface Latencies {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

export interface LoopFigures extends Latencies {
  readonly runs: number
  readonly seconds: number
  readonly runsPerSecond: number
  readonly failures: number
  /** What the first of them said. */
  readonly failure: string | undefined
}

/** More than a busy machine explains: what is measured is then not the workload any more. */
const maxFailures = 20

/**
 * Runs the loop for its time; what is under way at its end is waited for, and counted. Runs that
 * fail are not; too many of them fail the loop.
 */
export async function closedLoop(
  { clients, ms }: LoopOptions,
  start: () => Promise<unknown>,
): Promise<LoopFigures> {
  const took: number[] = []
  let failures = 0
  let failure: string | undefined
  const begin = performance.now()
  const end = begin + ms
  const client = async () => {
    while (performance.now() < end) {
      const at = performance.now()
      try {
        await start()
        took.push(performance.now() - at)
      } catch (error) {
        failures++
        failure ??= String(error)
        if (failures > maxFailures) throw error
      }
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  const seconds = (performance.now() - begin) / 1_000
  const runs = took.length
  return { runs, seconds, runsPerSecond: runs / seconds, failures, failure, ...latencies(took) }
}

export function latencies(took: readonly number[]): Latencies {
  const sorted = took.toSorted((a, b) => a - b)
  const at = (share: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: sorted.at(-1) ?? Number.NaN }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2
}
