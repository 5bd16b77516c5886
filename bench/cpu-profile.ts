/**
 * Where the time of a CPU profile went: the functions that cost most by themselves, for whom
 * it was and whose code it is. `node bench/cpu-profile.ts FILE [RUNS]` prints that, per run where
 * their number is given.
 */
import { readFileSync } from "node:fs"
import path from "node:path"
import { plainTable } from "./report.ts"

interface Frame {
  readonly functionName: string
  readonly url: string
  readonly lineNumber: number
}

interface ProfileNode {
  readonly id: number
  readonly callFrame: Frame
  readonly children?: readonly number[]
}

interface Profile {
  readonly nodes: readonly ProfileNode[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
}

export interface ProfileSummary {
  /** Microseconds by function itself, the costliest first. */
  readonly functions: readonly (readonly [name: string, micros: number])[]
  /** Microseconds by the service for which something ran, or else by the folder of ours. */
  readonly rooms: readonly (readonly [name: string, micros: number])[]
  /** Microseconds by the library or folder whose code it was. */
  readonly libraries: readonly (readonly [name: string, micros: number])[]
  /** Microseconds in which anything ran at all. */
  readonly busyMicros: number
}

const root = path.resolve(import.meta.dirname, "..")

export function summarise(profile: Profile): ProfileSummary {
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]))
  const parents = new Map(
    profile.nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)),
  )
  const functions = new Map<string, number>()
  const rooms = new Map<string, number>()
  const libraries = new Map<string, number>()
  let busyMicros = 0
  profile.samples.forEach((id, index) => {
    const node = nodes.get(id)
    const micros = profile.timeDeltas[index] ?? 0
    if (node === undefined || node.callFrame.functionName === "(idle)") return
    busyMicros += micros
    add(functions, describe(node.callFrame), micros)
    add(rooms, roomOf(node, nodes, parents), micros)
    add(libraries, folderOf(placeOf(node.callFrame)), micros)
  })
  return {
    functions: sorted(functions),
    rooms: sorted(rooms),
    libraries: sorted(libraries),
    busyMicros,
  }
}

/**
 * The nearest service up the stack, or else the nearest folder of ours; what Node began by itself
 * counts for its library. A stack begins anew where something was waited for.
 */
function roomOf(
  leaf: ProfileNode,
  nodes: ReadonlyMap<number, ProfileNode>,
  parents: ReadonlyMap<number, number>,
): string {
  let folder: string | undefined
  let outermost = placeOf(leaf.callFrame)
  for (
    let node: ProfileNode | undefined = leaf;
    node !== undefined;
    node = nodes.get(parents.get(node.id) ?? -1)
  ) {
    const place = placeOf(node.callFrame)
    if (place.startsWith("services/")) return folderOf(place)
    if (/^(mesh|gen|bench)\//.test(place)) folder ??= folderOf(place)
    if (place !== "(node)") outermost = place
  }
  return folder ?? outermost
}

/** `services/x` or `mesh` of a file of ours; a library as it is. */
function folderOf(place: string): string {
  if (!/^(services|mesh|gen|bench)\//.test(place)) return place
  const [top = "", second = ""] = place.split("/")
  return top === "services" ? `${top}/${second}` : top
}

function placeOf({ functionName, url }: Frame): string {
  if (url === "") return functionName.startsWith("(") ? functionName : "(node)"
  if (url.startsWith("node:")) return "(node)"
  const file = path.relative(root, url.replace("file://", ""))
  const [, library] = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file) ?? []
  return library ?? file
}

function describe(frame: Frame): string {
  const { functionName, url, lineNumber } = frame
  const name = functionName === "" ? "(anonymous)" : functionName
  if (url === "") return name
  const file = url.startsWith("node:") ? url : path.relative(root, url.replace("file://", ""))
  return `${name} ${file.replace(/^.*node_modules\//, "")}:${lineNumber + 1}`
}

function add(sums: Map<string, number>, key: string, micros: number): void {
  sums.set(key, (sums.get(key) ?? 0) + micros)
}

function sorted(sums: ReadonlyMap<string, number>): readonly (readonly [string, number])[] {
  return [...sums].sort(([, a], [, b]) => b - a)
}

/** Its tables, per run. */
export function profileTables(summary: ProfileSummary, runs: number): string {
  const { functions, rooms, libraries, busyMicros } = summary
  const rows = (list: ProfileSummary["rooms"], head: string, count: number) => {
    const table = plainTable([head, "µs per run", "share"])
    for (const [name, micros] of list.slice(0, count)) {
      const share = `${((micros / busyMicros) * 100).toFixed(1)} %`
      table.push([name, (micros / runs).toFixed(1), share])
    }
    return table.toString()
  }
  const total = `${(busyMicros / runs).toFixed(0)} µs per run on the thread`
  return [
    total,
    rows(rooms, "for whom", 16),
    rows(libraries, "whose code", 24),
    rows(functions, "by function itself", 60),
  ].join("\n")
}

if (process.argv[1] === import.meta.filename) {
  const [, , file = "", runs = "1"] = process.argv
  const profile = JSON.parse(readFileSync(file, "utf8")) as Profile
  process.stdout.write(`${profileTables(summarise(profile), Number(runs))}\n`)
}
