/**
 * Speaks MCP with a process of its own, over its standard streams.
 *
 * Owns: the process and everything that it starts, as one process group.
 * States: not started → running → closing → closed.
 *
 * Invariants:
 * 1. The process sees the environment that was declared for it and no variable of this process.
 * 2. Whatever ends the conversation ends the group: nothing that it started outlives it, unless it
 *    left the group by itself.
 * 3. A line is read up to its cap. A longer one ends the conversation: it is a fault or an attack,
 *    and what follows it cannot be told from its rest.
 * 4. A line that is not UTF-8, or no message, is dropped: nothing is guessed into it.
 */
import { isUtf8 } from "node:buffer"
import { type ChildProcessByStdio, spawn } from "node:child_process"
import { once } from "node:events"
import type { Readable, Writable } from "node:stream"
import { setTimeout as sleep } from "node:timers/promises"
import {
  deserializeMessage,
  type JSONRPCMessage,
  serializeMessage,
  type Transport,
} from "@modelcontextprotocol/client"

/** How a server is started. `command` is a path, or a name that is looked up in the `PATH` of `env`. */
export interface StdioCommand {
  readonly command: string
  readonly args: readonly string[]
  /** All that it sees of an environment. */
  readonly env: Readonly<Record<string, string>>
  readonly cwd?: string | undefined
}

export interface StdioOptions {
  /** The longest line that is read, in bytes. */
  readonly maxLineBytes: number
  /** Is told each line that the process writes to its standard error, cut to a kilobyte. */
  readonly onErrorLine: (line: string) => void
}

type Child = ChildProcessByStdio<Writable, Readable, Readable>

/** How long a server is given to end by itself when its input has ended, and after SIGTERM. */
const graceMs = 1_000
const lineFeed = 10
const maxErrorLine = 1_024
const maxErrorLinesPerSecond = 20

export class StdioTransport implements Transport {
  onclose?: () => void
  onerror?: (error: Error) => void
  onmessage?: Transport["onmessage"]
  readonly #command: StdioCommand
  readonly #options: StdioOptions
  #line: Buffer[] = []
  #lineBytes = 0
  #child: Child | undefined
  #closing: Promise<void> | undefined

  constructor(command: StdioCommand, options: StdioOptions) {
    this.#command = command
    this.#options = options
  }

  async start(): Promise<void> {
    const { command, args, env, cwd } = this.#command
    const child: Child = spawn(command, [...args], {
      env: { ...env },
      stdio: ["pipe", "pipe", "pipe"],
      detached: true, // (2) the leader of a group
      windowsHide: true,
      ...(cwd === undefined ? {} : { cwd }),
    })
    this.#child = child
    child.stdin.on("error", (error) => this.onerror?.(error))
    child.stdout.on("error", (error) => this.onerror?.(error))
    child.stdout.on("data", (chunk: Buffer) => this.#read(chunk))
    child.stderr.on("error", () => {})
    readLines(child.stderr, this.#options.onErrorLine)
    child.once("exit", () => void this.close())
    await once(child, "spawn")
    child.on("error", (error) => this.onerror?.(error))
  }

  async send(message: JSONRPCMessage): Promise<void> {
    const child = this.#child
    if (child === undefined || this.#closing !== undefined) throw new Error("not connected")
    if (child.stdin.write(serializeMessage(message))) return
    await Promise.race([once(child.stdin, "drain"), once(child.stdin, "close")])
  }

  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  #read(chunk: Buffer): void {
    let start = 0
    for (let end = chunk.indexOf(lineFeed); end >= 0; end = chunk.indexOf(lineFeed, start)) {
      if (!this.#gather(chunk.subarray(start, end))) return
      this.#take(Buffer.concat(this.#line, this.#lineBytes))
      this.#line = []
      this.#lineBytes = 0
      start = end + 1
    }
    this.#gather(chunk.subarray(start))
  }

  /** False once the line is too long, and the conversation over (3). */
  #gather(part: Buffer): boolean {
    this.#line.push(part)
    this.#lineBytes += part.length
    if (this.#lineBytes <= this.#options.maxLineBytes) return true
    this.#line = []
    this.#child?.stdout.destroy()
    this.onerror?.(new Error(`a line is longer than ${this.#options.maxLineBytes} bytes`))
    kill(this.#child, "SIGKILL")
    void this.close()
    return false
  }

  #take(line: Buffer): void {
    if (line.length === 0) return
    try {
      if (!isUtf8(line)) throw new Error("a line is not UTF-8")
      this.onmessage?.(deserializeMessage(line.toString("utf8")))
    } catch (error) {
      this.onerror?.(error as Error) // (4)
    }
  }

  async #end(): Promise<void> {
    const child = this.#child
    if (child !== undefined) {
      child.stdin.end()
      if (!(await hasExited(child, graceMs))) {
        kill(child, "SIGTERM")
        await hasExited(child, graceMs)
      }
      kill(child, "SIGKILL") // (2) whoever it left behind
      child.stdout.destroy()
      child.stderr.destroy()
    }
    this.onclose?.()
  }
}

function kill(child: Child | undefined, signal: NodeJS.Signals): void {
  if (child?.pid === undefined) return
  try {
    // The group lives as long as one of its processes, and so does its number.
    process.kill(-child.pid, signal)
  } catch {
    // Nobody is left.
  }
}

async function hasExited(child: Child, withinMs: number): Promise<boolean> {
  if (child.exitCode !== null || child.signalCode !== null) return true
  const stop = new AbortController()
  const isOver = await Promise.race([
    once(child, "exit", { signal: stop.signal }).then(() => true),
    sleep(withinMs, false, { signal: stop.signal }),
  ]).catch(() => true)
  stop.abort()
  return isOver
}

/** Tells complete lines, cut to their cap, and not more of them than a log can bear. */
function readLines(stream: Readable, onLine: (line: string) => void): void {
  let rest = ""
  let second = 0
  let told = 0
  stream.setEncoding("utf8")
  stream.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n")
    rest = (lines.pop() ?? "").slice(-maxErrorLine)
    const now = Math.floor(performance.now() / 1_000)
    if (now !== second) {
      second = now
      told = 0
    }
    for (const line of lines) {
      if (line.trim() === "" || ++told > maxErrorLinesPerSecond) continue
      onLine(line.slice(0, maxErrorLine))
    }
  })
}
