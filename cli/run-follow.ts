/** Follows the history of a run, over lost connections too. */
import { setTimeout as sleep } from "node:timers/promises"
import type { RunEvent } from "../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { toFailure } from "./failure.ts"
import type { Session } from "./session.ts"

const retryMs = 1_000
const maxRetries = 30

/** The events of a run after a sequence, each once and in order, until the run has ended. */
export async function* followRun(
  session: Session,
  runId: string,
  afterSequence = 0n,
): AsyncGenerator<RunEvent> {
  const workspaceId = await session.workspaceId()
  const runs = session.client(RunService)
  let last = afterSequence
  for (let failures = 0; ; ) {
    try {
      const history = runs.watchRun({ workspaceId, runId, afterSequence: last }, session.options)
      for await (const { event } of history) {
        failures = 0
        if (event === undefined || event.sequence <= last) continue
        last = event.sequence
        yield event
      }
      return
    } catch (error) {
      session.signal.throwIfAborted()
      failures += 1
      if (!mayComeBack(error, session) || failures > maxRetries) throw error
      await sleep(retryMs, undefined, { signal: session.signal })
    }
  }
}

function mayComeBack(error: unknown, session: Session): boolean {
  const reason = reasonOf(error)
  return (
    reason === "DEPENDENCY_UNAVAILABLE" ||
    reason === "SHUTTING_DOWN" ||
    (reason === undefined && toFailure(error, session.target.url).reason === "unreachable")
  )
}
