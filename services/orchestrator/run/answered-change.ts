/**
 * A request that changes a run: read, decide, and store the change with its answer.
 *
 * 1. Nothing is locked while it is decided: where the run has changed meanwhile, storing says so, and
 *    it is decided anew, until the request's deadline.
 * 2. The answer is stored with the change, in one statement. The same request again gets it, however
 *    many arrive at once.
 * 3. What a run waited for wakes it in the same transaction: it is this replica's from then on, or
 *    due for any other.
 */
import {
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf"
import type { Database, Tx } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import {
  answerAfter,
  answerOnce,
  pruneAnswers,
  type RepeatableRequest,
  requestKeyOf,
} from "../../../mesh/request-id.ts"
import type { Change } from "../change/change.ts"
import type { ChangeStore } from "../change/change-store.ts"
import type { Executor } from "../engine/executor.ts"

export interface AnsweredChangeDeps {
  readonly database: Database
  readonly changes: ChangeStore
  readonly executor: Executor
  /** Told after every stored change, and when it was stored. */
  stored(change: Change, at: Date): void
}

/** What a request leads to: an answer, and the change that makes it true, where one is needed. */
export interface Decision<Response> {
  readonly change: Change | undefined
  readonly response: Response
}

/**
 * How an answer is kept for a request that comes again: without what is stored elsewhere and never
 * changes, which is put in again.
 */
export interface KeptForm<Response> {
  /** Takes it out of a shallow copy. */
  readonly reduce: (copy: Response) => void
  readonly restore: (tx: Tx, kept: Response) => Promise<void>
}

/** Answers a request once. `decide` may be called again, and has no effect outside its change. */
export async function answerChanging<Req extends DescMessage, Res extends DescMessage>(
  { database, changes, executor, stored }: AnsweredChangeDeps,
  method: DescMethodUnary<Req, Res>,
  request: MessageShape<Req> & RepeatableRequest,
  decide: (tx: Tx) => Promise<Decision<MessageShape<Res>>>,
  form: KeptForm<MessageShape<Res>>,
  signal: AbortSignal,
): Promise<MessageShape<Res>> {
  const key = requestKeyOf(method, request)
  const read = { name: method.name, signal, isOneRead: true }
  const reduced = (response: MessageShape<Res>) => {
    const copy = { ...response }
    form.reduce(copy)
    return copy
  }
  const restored = async (kept: MessageShape<Res>) => {
    await database.tenant(request.workspaceId, (tx) => form.restore(tx, kept), { signal })
    return kept
  }
  try {
    for (;;) {
      if (signal.aborted) throw new RunwardenError("CANCELLED", {}, { cause: signal.reason })
      const { change, response } = await database.tenant(request.workspaceId, decide, read)
      if (change === undefined) {
        const work = async () => response
        const given = await answerOnce(database, method, request, work, { signal, keep: reduced })
        return given === response ? response : await restored(given)
      }
      const answer = { key, response: toBinary(method.output, reduced(response)) }
      // A run that this wakes goes on here, where there is room: nobody has to find it first.
      using lease = goesOnWith(change) ? executor.reserve() : undefined
      if (lease !== undefined) change.take(lease)
      const outcome = await changes.store(change, answer)
      if (outcome.kind !== "stored") continue
      stored(change, outcome.at)
      if (lease !== undefined) executor.resume(change.after(outcome.at), lease)
      // The answer stands, whether old ones could be taken away or not.
      await pruneAnswers(database, request).catch(() => {})
      return response
    }
  } catch (error) {
    const kept = await answerAfter(error, database, key, signal)
    return restored(fromBinary(method.output, kept))
  }
}

/** Whether the run goes on from here, with what was read of it: with the approval that is its call's. */
function goesOnWith({ claim, before: { run, calls, approval } }: Change): boolean {
  return claim.kind === "wake" && calls[run.stepIndex]?.approvalId === approval?.approvalId
}
