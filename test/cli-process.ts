// The runwarden command in tests: inside this process, where most of it can be seen, and as a child.
import { spawn } from "node:child_process"
import path from "node:path"
import { PassThrough, Writable } from "node:stream"
import { runCli } from "../cli/program.ts"

export const root = path.resolve(import.meta.dirname, "..")

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
