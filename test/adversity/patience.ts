/** How clients ask: until there is an answer, or one that no fault explains. */
import type { ConnectError } from "@connectrpc/connect"
import { type Reason, reasonOf } from "../../mesh/errors.ts"
import { sleep } from "./faults.ts"
import type { History } from "./history.ts"

/** What a fault may do to any request; everything else is a surprise. */
const passing: readonly Reason[] = [
  "DEPENDENCY_UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "SHUTTING_DOWN",
  "CANCELLED",
  "LIMIT_EXCEEDED",
]

export class Patience {
  readonly #history: History
  readonly #passing: ReadonlySet<Reason | undefined>
  readonly #signal: AbortSignal

  constructor(history: History, mayRefuse: readonly Reason[], signal: AbortSignal) {
    this.#history = history
    this.#passing = new Set([...passing, ...mayRefuse])
    this.#signal = signal
  }

  /** Asks until there is an answer, or one that no fault explains. */
  async persist<T>(what: string, workspaceId: string, ask: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await ask()
      } catch (error) {
        if (this.#signal.aborted || !this.judge(what, workspaceId, error)) throw error
        await sleep(50 + Math.random() * 100)
      }
    }
  }

  /** Whether a fault explains this; a surprise is noted. */
  judge(what: string, workspaceId: string, error: unknown): boolean {
    const reason = reasonOf(error)
    if (this.#passing.has(reason)) return true
    const text = reason ?? (error as ConnectError).message ?? String(error)
    this.#history.note({ kind: "surprise", workspaceId, what: `${what}: ${text}` })
    return false
  }
}
