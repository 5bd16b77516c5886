/**
 * A process that a supervisor starts again at once whenever it dies, as Kubernetes does.
 *
 * Owns: the child of the moment, what it said on its streams, and the record of deaths.
 * States: down → up (start) → up … (each death is followed by the next life) → down (stop).
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import type { KillOrder, Order } from "./kill-switch.ts"

const root = path.resolve(import.meta.dirname, "../..")
const keptLines = 2_000
/** A process that cannot live must not be started in a tight loop. */
const tooShortMs = 400

export interface ProcessSpec {
  readonly name: string
  /** The script below test/adversity. */
  readonly script: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Kills itself when it is told to. */
  readonly isSuicidal?: boolean
}

/** One death: at a kill point, by a signal that a fault sent, or for a reason of its own. */
export interface Death {
  readonly at: number
  readonly process: string
  readonly cause: "kill_point" | "signal" | "itself"
  readonly detail: string
}

export class SupervisedProcess implements AsyncDisposable {
  readonly name: string
  readonly deaths: Death[] = []
  /** What it said, newest last. */
  readonly lines: string[] = []
  readonly #spec: ProcessSpec
  #child: ChildProcess | undefined
  #isWanted = false
  #isKilling = false
  /** The order of this life; those of the next ones follow. */
  #armed: KillOrder | undefined
  /** The last order that it was given in this life: one that was taken back may have been carried out. */
  #given: KillOrder | undefined
  #nextOrders: readonly KillOrder[] = []
  #startedAt = 0

  constructor(spec: ProcessSpec) {
    this.name = spec.name
    this.#spec = spec
  }

  start(): void {
    if (this.#isWanted) return
    this.#isWanted = true
    this.#launch()
  }

  /** Has this life end at the first order's point, the next at the second's, and so on. */
  arm(orders: readonly KillOrder[]): void {
    this.#nextOrders = this.isUp ? orders.slice(1) : orders
    if (this.isUp) this.#send(orders[0])
  }

  disarm(): void {
    this.arm([])
  }

  get isUp(): boolean {
    return this.#child !== undefined
  }

  /** Whether every order was carried out. */
  get isSpent(): boolean {
    return this.#armed === undefined && this.#nextOrders.length === 0
  }

  setClock(offsetMs: number): void {
    this.#tell({ kind: "clock", offsetMs })
  }

  /** Kills it now; it is started again. */
  kill(): void {
    this.#isKilling = true
    this.#child?.kill("SIGKILL")
  }

  freeze(): void {
    this.#child?.kill("SIGSTOP")
  }

  thaw(): void {
    this.#child?.kill("SIGCONT")
  }

  /** Ends it and leaves it down until the next start. */
  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.#isWanted = false
    const child = this.#child
    if (child === undefined) return
    const exited = once(child, "exit")
    child.kill("SIGCONT")
    child.kill(signal)
    await exited
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #launch(): void {
    const { script, args, env } = this.#spec
    this.#isKilling = false
    this.#startedAt = Date.now()
    const child = spawn(process.execPath, [path.join(import.meta.dirname, script), ...args], {
      cwd: root,
      env: { PATH: process.env.PATH ?? "", ...env },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (text: Buffer) => this.#keep(text.toString("utf8")))
    }
    child.on("error", () => {})
    child.on("exit", (code, signal) => this.#bury(code, signal))
    const [next, ...others] = this.#nextOrders
    this.#nextOrders = others
    if (next !== undefined) this.#send(next)
  }

  #bury(code: number | null, signal: NodeJS.Signals | null): void {
    this.#child = undefined
    if (!this.#isWanted) return
    const { name } = this
    const at = Date.now()
    const isSuicidal = this.#spec.isSuicidal === true && signal === "SIGKILL"
    const given = isSuicidal ? this.#armed : this.#given
    this.#given = undefined
    this.#armed = undefined
    if (this.#isKilling || (isSuicidal && given === undefined)) {
      this.deaths.push({ at, process: name, cause: "signal", detail: "SIGKILL" })
    } else if (signal === "SIGKILL" && given !== undefined) {
      this.deaths.push({ at, process: name, cause: "kill_point", detail: given.point })
    } else {
      const detail = `exit ${signal ?? code}: ${this.lines.slice(-5).join(" ")}`
      this.deaths.push({ at, process: name, cause: "itself", detail })
    }
    const lived = at - this.#startedAt
    setTimeout(() => this.#isWanted && this.#launch(), lived < tooShortMs ? tooShortMs : 0)
  }

  #send(order: KillOrder | undefined): void {
    this.#armed = order
    this.#given = order ?? this.#given
    this.#tell(order === undefined ? { kind: "disarm" } : { kind: "arm", order })
  }

  #tell(order: Order): void {
    const child = this.#child
    if (child?.connected === true) child.send(order, () => {})
  }

  #keep(text: string): void {
    this.lines.push(...text.split("\n").filter((line) => line !== ""))
    if (this.lines.length > keptLines) this.lines.splice(0, this.lines.length - keptLines)
  }
}
