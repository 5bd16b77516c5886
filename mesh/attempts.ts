import { setTimeout as sleep } from "node:timers/promises"
import { SpanKind, type Tracer } from "@opentelemetry/api"
import type pg from "pg"
import { faultOf, toDatabaseError } from "./database-errors.ts"
import { RunwardenError } from "./errors.ts"
import { inSpan } from "./tracing.ts"

const maxAttempts = 6

/** Where something is asked of Postgres, and who asks. */
export interface DatabaseWork {
  readonly pool: pg.Pool
  readonly tracer: Tracer
  readonly spanName: string
  readonly signal: AbortSignal | undefined
}

/** How one attempt ended; `isRepeatable` says that it had no effect and that another may help. */
export type Outcome<T> =
  | { readonly kind: "done"; readonly value: T }
  | { readonly kind: "failed"; readonly error: unknown; readonly isRepeatable: boolean }

/** Tries, again where that is safe and may help, inside one span. */
export async function attempt<T>(
  { tracer, spanName, signal }: DatabaseWork,
  tryOnce: () => Promise<Outcome<T>>,
): Promise<T> {
  const start = { kind: SpanKind.CLIENT, attributes: { "db.system.name": "postgresql" } }
  return inSpan(tracer, spanName, start, async (span) => {
    for (let attempts = 1; ; attempts++) {
      const outcome = await tryOnce()
      if (outcome.kind === "done") return outcome.value
      if (!outcome.isRepeatable || attempts >= maxAttempts) throw toDatabaseError(outcome.error)
      span.addEvent("repeated", { "runwarden.db.fault": faultOf(outcome.error) })
      await sleep(Math.random() * 20 * 2 ** attempts, undefined, { signal }).catch(() => {})
    }
  })
}

/** A connection of the pool, for as long as the caller waits for it. */
export async function acquire(
  pool: pg.Pool,
  signal: AbortSignal | undefined,
): Promise<pg.PoolClient> {
  if (signal === undefined) return pool.connect()
  if (signal.aborted) throw cancelled(signal)
  const gone = Promise.withResolvers<never>()
  const onAbort = () => gone.reject(cancelled(signal))
  signal.addEventListener("abort", onAbort, { once: true })
  const connecting = pool.connect()
  try {
    return await Promise.race([gone.promise, connecting])
  } catch (error) {
    connecting.then(
      (late) => late.release(),
      () => {},
    )
    throw error
  } finally {
    signal.removeEventListener("abort", onAbort)
  }
}

/** What a caller that has gone is told. */
export function cancelled(signal: AbortSignal | undefined): RunwardenError {
  return new RunwardenError("CANCELLED", {}, { cause: signal?.reason })
}
