/** Guards that a test takes out of a service's code, to see that their absence is noticed. */
import { registerHooks } from "node:module"

interface Mutation {
  /** The end of the module's URL. */
  readonly file: string
  readonly guard: string
  readonly instead: string
}

export const mutations = {
  /** A StartRun is acknowledged while it is being stored, not after. */
  early_answers: {
    file: "/services/orchestrator/start/start-run.ts",
    guard: "starts.start(stored)",
    instead:
      '(void starts.start(stored).catch(() => {}), { kind: "started" as const, at: new Date() })',
  },
  /** HIGH calls are executed without asking. */
  no_questions: {
    file: "/services/orchestrator/action.ts",
    guard: 'if (call.riskClass !== "low" && call.riskClass !== "medium") return "ask"',
    instead: "",
  },
  /** Nobody takes over the runs of an owner that died. */
  abandoned_runs: {
    file: "/services/orchestrator/engine/claim-store.ts",
    guard: "and free.due_time <= now()",
    instead: "and free.due_time <= now() and not free.is_orphan",
  },
  /** An unsafe call whose sender vanished is sent again. */
  unsafe_repeats: {
    file: "/services/tools/ledger/ledger.ts",
    guard:
      'if (isUnsafeAndSent(entry)) return { kind: "abandon" } // (2)\n      return { kind: "repeat"',
    instead: 'return { kind: "repeat"',
  },
  /** A keyed call whose key is known is carried out once more. */
  forgotten_keys: {
    file: "/test/retail/keyed-calls.ts",
    guard: "if (!isNew) return storedAnswer(tx, call)",
    instead: "",
  },
} as const satisfies Readonly<Record<string, Mutation>>

export type MutationName = keyof typeof mutations

/** Has these modules loaded without their guards. Throws when one is loaded and its guard is not there. */
export function installMutations(names: readonly string[]): void {
  const chosen = names.map((name) => mutations[name as MutationName])
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context)
      const found = chosen.filter(({ file }) => url.endsWith(file))
      if (found.length === 0) return loaded
      const source = found.reduce((text, { guard, instead }) => {
        if (!text.includes(guard)) throw new Error(`the guard is not in ${url}: ${guard}`)
        return text.replace(guard, instead)
      }, String(loaded.source))
      return { ...loaded, source }
    },
  })
}
