import { setImmediate as turn } from "node:timers/promises"

/** Work that yields wherever it could be interrupted, so that it never holds the event loop long. */
export type Steps<T> = Generator<undefined, T, undefined>

/** The work did not end within its time. */
export class OutOfTime extends Error {
  override readonly name = "OutOfTime"
}

/** Runs work to its end without giving way; for small inputs and tests. */
export function finish<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
  }
}

/**
 * Runs work in slices of `sliceMs`, giving way to the event loop between them. Rejects with the
 * signal's reason when it aborts, and with `OutOfTime` after `limitMs` of wall time.
 */
export async function inSlices<T>(
  steps: Steps<T>,
  options: { readonly signal?: AbortSignal; readonly limitMs: number; readonly sliceMs?: number },
): Promise<T> {
  const sliceMs = options.sliceMs ?? 5
  const end = performance.now() + options.limitMs
  let sliceEnd = performance.now() + sliceMs
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
    const now = performance.now()
    if (now < sliceEnd) continue
    if (now > end) throw new OutOfTime(`judging took more than ${options.limitMs} ms`)
    await turn()
    options.signal?.throwIfAborted()
    sliceEnd = performance.now() + sliceMs
  }
}
