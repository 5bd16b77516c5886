// The examples in three languages as programs of their own: how each is made and started, and why it
// cannot be where its language is not here.
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import { findGo, findPython, root } from "../scripts/languages.ts"

export interface ExampleLanguage {
  readonly name: "typescript" | "python" | "go"
  /** Why its examples cannot run here; undefined where they can. */
  readonly missing: string | undefined
  /** Makes an example ready to run, and tells how. */
  prepare(example: "provider" | "client"): Promise<Program>
}

export interface Program {
  readonly command: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

const python = findPython()
const go = findGo()
const binaries = path.join(tmpdir(), `runwarden-examples-${process.pid}`)

export const exampleLanguages: readonly ExampleLanguage[] = [
  {
    name: "typescript",
    missing: undefined,
    async prepare(example) {
      const main = path.join(root, "examples", `${example}-typescript`, "main.ts")
      return { command: process.execPath, args: [main], env: {} }
    },
  },
  {
    name: "python",
    missing: "missing" in python ? python.missing : undefined,
    async prepare(example) {
      if ("missing" in python) throw new Error(python.missing)
      const main = path.join(root, "examples", `${example}-python`, "main.py")
      const env = { PYTHONPATH: path.join(root, "gen", "python"), PYTHONDONTWRITEBYTECODE: "1" }
      return { command: python.found.command, args: [main], env }
    },
  },
  {
    name: "go",
    missing: "missing" in go ? go.missing : undefined,
    async prepare(example) {
      const binary = path.join(binaries, example)
      const cwd = path.join(root, "examples", `${example}-go`)
      // Everything it needs was fetched by `npm run languages`; a test asks nobody outside.
      const env = { ...process.env, GOPROXY: "off", GOFLAGS: "-mod=readonly" }
      const built = spawnSync("go", ["build", "-o", binary, "."], { cwd, env, encoding: "utf8" })
      if (built.status !== 0) throw new Error(`go build failed:\n${built.stderr}`)
      return { command: binary, args: [], env: {} }
    },
  },
]

/** The languages that are here; says of each other one, in a line, why its tests are skipped. */
export function availableLanguages(tests: string): readonly ExampleLanguage[] {
  for (const { name, missing } of exampleLanguages) {
    if (missing !== undefined) console.log(`skipped: ${tests} in ${name} (${missing})`)
  }
  return exampleLanguages.filter(({ missing }) => missing === undefined)
}

/** Ends what `prepare` has left. */
export function removePrograms(): void {
  rmSync(binaries, { recursive: true, force: true })
}

/** A process and what it has printed. */
export interface Running {
  readonly child: ChildProcess
  output(): string
  /** Waits for its end, and tells the exit code. */
  readonly ended: Promise<number | null>
}

/** Starts a program with nothing in its environment but what is given. */
export function startProgram(
  { command, args, env }: Program,
  more: { readonly args?: readonly string[]; readonly env?: Readonly<Record<string, string>> } = {},
): Running {
  const child = spawn(command, [...args, ...(more.args ?? [])], {
    env: { ...env, ...more.env },
    stdio: ["ignore", "pipe", "pipe"],
  })
  let text = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
    })
  }
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", resolve)
  })
  return { child, output: () => text, ended }
}

export function temporaryFolder(): string {
  return mkdtempSync(path.join(tmpdir(), "runwarden-orders-"))
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === "string") throw new Error("no port")
  return address.port
}
