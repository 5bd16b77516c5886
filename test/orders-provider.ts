// The orders provider of one language: one process at a time, on one port and one database, killed
// and started again as a test needs it.
import { rmSync } from "node:fs"
import path from "node:path"
import { encodeTrustedKeys } from "../mesh/keys.ts"
import { testKeys, until } from "../mesh/testing.ts"
import {
  type ExampleLanguage,
  freePort,
  type Program,
  type Running,
  startProgram,
  temporaryFolder,
} from "./example-programs.ts"

export interface OrdersProvider extends AsyncDisposable {
  readonly name: string
  readonly port: number
  /** Starts it, in place of the one that runs, and waits until it serves. */
  start(env?: Readonly<Record<string, string>>): Promise<Running>
  kill(): Promise<void>
  /** What the last one has printed. */
  output(): string
}

/** Starts nothing yet: a provider may be late. */
export async function ordersProvider(language: ExampleLanguage): Promise<OrdersProvider> {
  const name = `orders-${language.name}`
  const port = await freePort()
  const folder = temporaryFolder()
  let program: Program | undefined
  let running: Running | undefined
  const provider: OrdersProvider = {
    name,
    port,
    async start(env = {}) {
      await provider.kill()
      program ??= await language.prepare("provider")
      const tools = [...testKeys.trusted].filter(([service]) => service === "tools")
      const started = startProgram(program, {
        env: {
          RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(new Map(tools)),
          ORDERS_LISTEN: `127.0.0.1:${port}`,
          ORDERS_NAME: name,
          ORDERS_DATABASE: path.join(folder, "orders.sqlite"),
          ORDERS_LOOKUP_MS: "1",
          ORDERS_PAYMENT_MS: "10",
          ...env,
        },
      })
      running = started
      await until(
        () => {
          if (started.child.exitCode !== null) throw new Error(`it ended:\n${started.output()}`)
          return started.output().includes("serving")
        },
        { timeoutMs: 30_000 },
      )
      return started
    },
    async kill() {
      if (running === undefined || running.child.exitCode !== null) return
      running.child.kill("SIGKILL")
      await running.ended
    },
    output: () => running?.output() ?? "",
    async [Symbol.asyncDispose]() {
      await provider.kill()
      rmSync(folder, { recursive: true, force: true })
    },
  }
  return provider
}
