/**
 * Python and Go: the examples in those languages and their generated code need them, and nothing else
 * does. `npm run languages` installs what these need beside the npm packages, as far as the languages
 * themselves are there; whatever is not is said in a line, and left out.
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs"
import path from "node:path"

export const root = path.resolve(import.meta.dirname, "..")

const cache = path.join(root, "node_modules", ".cache", "runwarden")
const pythonMinor = 11
const goMinor = 26
const goPlugins = [
  "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
  "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
]
const howTo = "`npm run languages` does it"

/** What a language has here, or why it is not used. */
export type Found<T> = { readonly found: T } | { readonly missing: string }

/** Python with every package that the examples and the generator are locked to. */
export function findPython(): Found<{ readonly command: string; readonly bin: string }> {
  const bin = path.join(pythonFolder(), process.platform === "win32" ? "Scripts" : "bin")
  const command = path.join(bin, "python")
  if (succeeds(command, ["-c", ""])) return { found: { command, bin } }
  const system = systemPython()
  if ("missing" in system) return system
  return { missing: `the Python packages are not installed: ${howTo}` }
}

/** Go with every module that the examples are locked to, and the plugins that generate its code. */
export function findGo(): Found<{ readonly plugins: string }> {
  const system = systemGo()
  if ("missing" in system) return system
  const plugins = goFolder()
  if (existsSync(plugins)) return { found: { plugins } }
  return { missing: `the Go modules are not installed: ${howTo}` }
}

/** Folders with a Go module of their own. */
export function goModules(): readonly string[] {
  return globSync("{gen/go,examples/*}/go.mod", { cwd: root }).map(path.dirname).sort()
}

function pythonLocks(): readonly string[] {
  return [
    ...globSync("examples/*/requirements.txt", { cwd: root }).sort(),
    "scripts/python-tools.txt",
  ]
}

function pythonFolder(): string {
  return path.join(
    cache,
    `python-${hashOf(pythonLocks().map((file) => readFileSync(path.join(root, file), "utf8")))}`,
  )
}

function goFolder(): string {
  const locks = goModules().map((folder) => readFileSync(path.join(root, folder, "go.sum"), "utf8"))
  return path.join(cache, `go-${hashOf([...goPlugins, ...locks])}`)
}

function systemPython(): Found<string> {
  const check = `import ensurepip, sys, venv; sys.exit(sys.version_info < (3, ${pythonMinor}))`
  const command = ["python3", "python"].find((name) => succeeds(name, ["-c", check]))
  if (command !== undefined) return { found: command }
  return { missing: `there is no python3 of version 3.${pythonMinor} or newer with venv` }
}

function systemGo(): Found<string> {
  const { stdout } = spawnSync("go", ["env", "GOVERSION"], { encoding: "utf8" })
  const minor = /^go1\.(\d+)/.exec(stdout ?? "")?.[1]
  if (Number(minor) >= goMinor) return { found: "go" }
  return { missing: `there is no go of version 1.${goMinor} or newer` }
}

function installPython(): string {
  if ("found" in findPython()) return "is there"
  const system = systemPython()
  if ("missing" in system) return `left out: ${system.missing}`
  // Made beside its place and moved there whole, so that nobody finds half of it.
  const folder = mkdtempSync(path.join(cacheFolder(), "python-"))
  try {
    const requirements = pythonLocks().flatMap((file) => ["-r", file])
    const python = path.join(folder, process.platform === "win32" ? "Scripts" : "bin", "python")
    const problem =
      problemOf(system.found, ["-m", "venv", folder]) ??
      problemOf(python, ["-m", "pip", "install", "--quiet", ...requirements])
    if (problem !== undefined) return `left out: ${problem}`
    rmSync(pythonFolder(), { recursive: true, force: true })
    renameSync(folder, pythonFolder())
    return "installed"
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function installGo(): string {
  const system = systemGo()
  if ("missing" in system) return `left out: ${system.missing}`
  if ("found" in findGo()) return "is there"
  const folder = mkdtempSync(path.join(cacheFolder(), "go-"))
  try {
    for (const plugin of goPlugins) {
      const problem = problemOf("go", ["install", plugin], { env: { GOBIN: folder } })
      if (problem !== undefined) return `left out: ${problem}`
    }
    for (const module of goModules()) {
      const problem = problemOf("go", ["vet", "./..."], { cwd: module })
      if (problem !== undefined) return `left out: ${problem}`
    }
    renameSync(folder, goFolder())
    return "installed"
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

interface Place {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
}

/** The last line of what a command complained about; undefined where it succeeded. */
function problemOf(
  command: string,
  args: readonly string[],
  place: Place = {},
): string | undefined {
  const { status, stderr, error } = spawnSync(command, args, {
    cwd: path.join(root, place.cwd ?? ""),
    env: { ...process.env, ...place.env },
    encoding: "utf8",
    stdio: ["ignore", "ignore", "pipe"],
  })
  if (status === 0) return undefined
  const said = stderr?.trim().split("\n").at(-1) || (error?.message ?? `ended with ${status}`)
  return `\`${[path.basename(command), ...args].join(" ").slice(0, 60)} …\` says: ${said}`
}

function succeeds(command: string, args: readonly string[]): boolean {
  return spawnSync(command, args, { stdio: "ignore" }).status === 0
}

function cacheFolder(): string {
  mkdirSync(cache, { recursive: true })
  return cache
}

function hashOf(parts: readonly string[]): string {
  return createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 16)
}

if (import.meta.main) {
  console.log(`Python: ${installPython()}`)
  console.log(`Go: ${installGo()}`)
}
