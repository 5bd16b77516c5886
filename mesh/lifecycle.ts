const forceExitMs = 25_000

/** Runs `work` with a signal that aborts at SIGINT or SIGTERM. */
export async function untilSignal(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController()
  const stop = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort(new Error(`stopped by ${name}`))
    setTimeout(() => process.exit(1), forceExitMs).unref()
  }
  process.on("SIGINT", stop)
  process.on("SIGTERM", stop)
  try {
    await work(controller.signal)
  } finally {
    process.off("SIGINT", stop)
    process.off("SIGTERM", stop)
  }
}

/** Resolves when the signal aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  if (signal.aborted) resolve()
  signal.addEventListener("abort", () => resolve(), { once: true })
  return promise
}
