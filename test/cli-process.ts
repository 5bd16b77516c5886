// The runwarden command in tests: inside this process, where most of it can be seen, and as a child.
import { spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { PassThrough, Writable } from "node:stream"
import { afterAll, beforeAll, expect } from "vitest"
import { runCli } from "../cli/program.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

export const root = path.resolve(import.meta.dirname, "..")

type As = Exclude<keyof TestWorkspace, "workspaceId">

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface CliCall {
  readonly env: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly stdin?: string
  /** What a person types; makes the streams a terminal. */
  readonly typed?: string
  readonly checkout?: string
}

/** Runs the command in this process. */
export async function runInside(args: readonly string[], call: CliCall): Promise<Ended> {
  const isTerminal = call.typed !== undefined
  const stdin = Object.assign(new PassThrough(), { isTTY: isTerminal })
  const [stdout, stderr] = [new Sink(isTerminal), new Sink(isTerminal)]
  stdin.end(call.typed ?? call.stdin ?? "")
  const code = await runCli(args, {
    env: { NO_COLOR: "1", ...call.env },
    checkout: call.checkout ?? root,
    cwd: call.cwd ?? root,
    stdin,
    stdout,
    stderr,
    signal: new AbortController().signal,
    now: () => new Date(),
  })
  return { code, stdout: stdout.text, stderr: stderr.text }
}

/** Starts the command as a process of its own. */
export function startProcess(args: readonly string[], call: CliCall) {
  const child = spawn(process.execPath, [path.join(root, "cli/runwarden.js"), ...args], {
    cwd: call.cwd ?? root,
    env: { PATH: process.env.PATH ?? "", ...call.env },
  })
  const text = { stdout: "", stderr: "" }
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text.stdout += chunk
  })
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    text.stderr += chunk
  })
  child.stdin.on("error", () => {})
  child.stdin.end(call.stdin ?? "")
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, ...text }))
  })
  return { child, text, ended }
}

/** A mesh with one workspace and a folder of its own, shared by the tests of one file. */
export interface CliFixture {
  readonly mesh: TestMesh
  readonly workspace: TestWorkspace
  readonly folder: string
  /** The environment of a member. */
  envOf(as: As): CliCall["env"]
  /** Runs the command as a member of the workspace, the one with the role member where not named. */
  cli(args: readonly string[], as?: As, call?: Partial<CliCall>): Promise<Ended>
  /** The same with -o json, parsed. */
  // biome-ignore lint/suspicious/noExplicitAny: JSON of many shapes, read by the test that asked.
  json(args: readonly string[], as?: As): Promise<any>
  /** Writes a file into the folder. */
  write(name: string, content: string | Buffer): string
}

/** Starts the mesh before the tests of a file, in this environment, and ends it after them. */
export function useCliFixture(env: Readonly<Record<string, string>> = {}): CliFixture {
  let mesh: TestMesh
  let workspace: TestWorkspace
  const folder = mkdtempSync(path.join(tmpdir(), "runwarden-cli-"))
  beforeAll(async () => {
    mesh = await startTestMesh({ env })
    workspace = await mesh.addWorkspace()
  })
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true, force: true })
  })
  const fixture: CliFixture = {
    folder,
    get mesh() {
      return mesh
    },
    get workspace() {
      return workspace
    },
    envOf: (as) => ({ RUNWARDEN_URL: mesh.url, RUNWARDEN_API_KEY: workspace[as].apiKey }),
    cli: (args, as = "member", call = {}) => runInside(args, { env: fixture.envOf(as), ...call }),
    async json(args, as = "member") {
      const { stdout, stderr } = await fixture.cli([...args, "-o", "json"], as)
      expect(stderr).toBe("")
      return JSON.parse(stdout)
    },
    write(name, content) {
      const file = path.join(folder, name)
      mkdirSync(path.dirname(file), { recursive: true })
      writeFileSync(file, content)
      return file
    },
  }
  return fixture
}

class Sink extends Writable {
  readonly isTTY: boolean
  readonly columns = 200
  text = ""

  constructor(isTerminal: boolean) {
    super()
    this.isTTY = isTerminal
  }

  override _write(chunk: Buffer | string, _: BufferEncoding, done: () => void): void {
    this.text += chunk.toString()
    done()
  }
}
