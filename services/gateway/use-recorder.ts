import type { Runtime } from "../../mesh/service.ts"
import type { Authenticator } from "./authenticator.ts"

/** `last_use_time` is exact to about this. */
const flushMs = 30_000

/** Writes down from time to time, and at the end, which keys were used. */
export function startUseRecorder(deps: {
  readonly authenticator: Authenticator
  readonly log: Runtime["log"]
}): AsyncDisposable {
  const { authenticator, log } = deps
  let running = Promise.resolve()

  // Nothing hangs on it: what could not be written is only an older time.
  function flush(): void {
    running = running
      .then(() => authenticator.flushUse())
      .catch((error: unknown) => log.warn({ err: error }, "use of keys not recorded"))
  }

  const timer = setInterval(flush, flushMs)
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      flush()
      await running
    },
  }
}
