/** Guards that a test takes out of a service's code, to see that their absence is noticed. */
import { registerHooks } from "node:module"

interface Mutation {
  /** The end of the module's URL. */
  readonly file: string
  readonly guard: string
  readonly instead: string
}

const mutations: Readonly<Record<string, Mutation>> = {
  /** A request that was answered before is carried out again. */
  forget_requests: {
    file: "/mesh/request-id.ts",
    guard: "x",
    instead: "TODO",
  },
}

/** Has the module loaded without its guard. Throws when it is loaded and the guard is not there. */
export function installMutation(name: string): void {
  const mutation = mutations[name]
  if (mutation === undefined) throw new Error(`no mutation ${name}`)
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context)
      if (!url.endsWith(mutation.file)) return loaded
      const text = String(loaded.source)
      if (!text.includes(mutation.guard)) throw new Error(`${name}: the guard is not in ${url}`)
      return { ...loaded, source: text.replace(mutation.guard, mutation.instead) }
    },
  })
}
