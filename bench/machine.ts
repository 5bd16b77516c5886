/**
 * What a piece of work cost this machine, read from /proc: CPU of process trees, what everybody else
 * took in the meantime, memory. Elsewhere than on Linux all of it is unknown (NaN).
 */
import { readdirSync, readFileSync } from "node:fs"
import { cpus, loadavg, totalmem } from "node:os"

/** Processes by name. Each is charged with its children, save for those that have a name themselves. */
export type Named = Readonly<Record<string, number>>

export interface Cost {
  readonly seconds: number
  /** CPU seconds by the name of the process. */
  readonly cpuSeconds: Readonly<Record<string, number>>
  /** Cores that anybody else on this machine kept busy. */
  readonly othersCores: number
}

interface Stat {
  readonly pid: number
  readonly parent: number
  readonly ticks: number
}

const ticksPerSecond = 100

/** Runs `work` and says what it cost. */
export async function costOf<T>(named: Named, work: () => Promise<T>): Promise<[T, Cost]> {
  const start = performance.now()
  const before = readCpu(named)
  const result = await work()
  const after = readCpu(named)
  const seconds = (performance.now() - start) / 1_000
  const cpuSeconds = Object.fromEntries(
    Object.keys(named).map((name) => [name, (after.own[name] ?? 0) - (before.own[name] ?? 0)]),
  )
  const ours = Object.values(cpuSeconds).reduce((sum, one) => sum + one, 0)
  const othersCores = Math.max(0, (after.busy - before.busy - ours) / seconds)
  return [result, { seconds, cpuSeconds, othersCores }]
}

/** Resident memory of each process alone, its shared pages left out, in MB. */
export function readMemory(named: Named): Readonly<Record<string, number>> {
  const all = readStats()
  return Object.fromEntries(
    Object.entries(named).map(([name, root]) => [
      name,
      Math.round(treeOf(all, root, named).reduce((sum, { pid }) => sum + anonymousMb(pid), 0)),
    ]),
  )
}

export function describeMachine(): string {
  const memory = Math.round(totalmem() / 2 ** 30)
  return `${cpus().length} x ${cpus()[0]?.model ?? "?"}, ${memory} GiB, ${process.platform}, Node ${process.version}, load ${loadavg()[0]?.toFixed(1)}`
}

function readCpu(named: Named) {
  const all = readStats()
  const own = Object.fromEntries(
    Object.entries(named).map(([name, root]) => [
      name,
      treeOf(all, root, named).reduce((sum, { ticks }) => sum + ticks, 0) / ticksPerSecond,
    ]),
  )
  return { own, busy: readBusySeconds() }
}

function treeOf(all: readonly Stat[], root: number, named: Named): readonly Stat[] {
  const excluded = new Set(Object.values(named).filter((pid) => pid !== root))
  const found = new Set([root])
  for (let size = 0; size !== found.size; ) {
    size = found.size
    for (const { pid, parent } of all) {
      if (found.has(parent) && !excluded.has(pid)) found.add(pid)
    }
  }
  return all.filter(({ pid }) => found.has(pid))
}

function readStats(): readonly Stat[] {
  return readProc(() => readdirSync("/proc"), [])
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readProc(() => [parseStat(Number(name))], []))
}

function parseStat(pid: number): Stat {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8")
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
  // Own user and system time, and that of children that have ended.
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
  return { pid, parent: Number(fields[1]), ticks }
}

function readBusySeconds(): number {
  const text = readProc(() => readFileSync("/proc/stat", "utf8"), "")
  const [user = Number.NaN, nice = 0, system = 0, , , irq = 0, soft = 0] = (
    text.split("\n")[0] ?? ""
  )
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + soft) / ticksPerSecond
}

function anonymousMb(pid: number): number {
  const text = readProc(() => readFileSync(`/proc/${pid}/status`, "utf8"), "")
  return Number(/RssAnon:\s+(\d+)/.exec(text)?.[1] ?? 0) / 1024
}

/** A process may end while it is read, and other systems have no /proc. */
function readProc<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}
