/**
 * The way of decisions into the database, in groups over all workspaces.
 *
 * Owns: decisions that wait to be stored, and those among them that were answered already.
 *
 * 1. A decision is answered before it is stored only while storing keeps up: fewer than `maxBehind`
 *    such decisions wait, none of them longer than `maxBehindMs`, and none has failed to be stored.
 *    Otherwise it is stored first, and whoever cannot store gets no verdict: closed.
 * 2. Nobody waits for what was answered, so that it is gathered for `gatherMs`, or until somebody has
 *    to wait for another decision. It is stored then. What fails is repeated until it succeeds, on disposal for
 *    `drainMs`; what is left then is in the log, and nowhere else.
 * 3. No more than `maxWaiting` decisions wait to be stored first; one more is refused.
 * 4. Every group tells the book which version judges each of its workspaces, as of when it was sent.
 */
import type { Logger } from "pino"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { createGroup } from "../../mesh/group.ts"
import { type DecisionItem, insertDecisions, type NewDecision } from "./decision-store.ts"
import type { PolicyBook } from "./policy-book.ts"

/** A decision that was made, and when. */
export type MadeDecision = Omit<DecisionItem, "isAnswered">

export interface DecisionLog extends AsyncDisposable {
  /**
   * Stores a decision. Resolves to false, with nothing stored, where its version does not judge the
   * workspace any more; the book then knows which one does.
   */
  store(made: MadeDecision, signal: AbortSignal): Promise<boolean>
  /** Takes a decision that is answered now and stored right after; false where that may not be. */
  storeBehind(made: MadeDecision): boolean
  /** Resolves when every decision of the workspace that was answered so far was tried to be stored. */
  tried(workspaceId: string): Promise<void>
}

export const gatherMs = 10
export const maxBehind = 1_024
export const maxBehindMs = 500
export const maxWaiting = 4_096
const maxGathered = 256
const drainMs = 5_000
const retryMs = { first: 50, most: 2_000 }

/** A decision that was answered and is not known to be stored. */
interface Behind {
  readonly item: DecisionItem
  readonly since: number
  /** Resolves when the first try to store it has ended; never rejects. */
  readonly tried: PromiseWithResolvers<void>
}

export function createDecisionLog(deps: {
  readonly database: Database
  readonly book: PolicyBook
  readonly log: Logger
}): DecisionLog {
  const { database, book, log } = deps
  const group = createGroup<DecisionItem, boolean>({ name: "decisions", run })
  const behind = new Set<Behind>()
  const failed = new Set<Behind>()
  let gathered: Behind[] = []
  let toRetry: Behind[] = []
  let gathering: NodeJS.Timeout | undefined
  let retry: NodeJS.Timeout | undefined
  let waitMs = retryMs.first
  let waiting = 0
  let isEnding = false
  let onEmpty: (() => void) | undefined

  async function run(items: readonly DecisionItem[]): Promise<readonly boolean[]> {
    const askedAt = performance.now()
    const active = await insertDecisions(database, items, book.defaultVersion)
    for (const [workspaceId, version] of active) book.note(workspaceId, version, askedAt)
    return items.map(
      ({ workspaceId, decision, isAnswered }) =>
        isAnswered || active.get(workspaceId)?.policyVersion === decision.policy_version,
    )
  }

  function keepsUp(): boolean {
    if (isEnding || failed.size > 0 || behind.size >= maxBehind) return false
    const [oldest] = behind
    return oldest === undefined || performance.now() - oldest.since < maxBehindMs
  }

  /** In one turn of the event loop, so that they become one group. */
  function sendGathered(): void {
    clearTimeout(gathering)
    gathering = undefined
    const all = gathered
    gathered = []
    for (const each of all) void send(each)
  }

  async function send(each: Behind): Promise<void> {
    try {
      await group.add(each.item)
      behind.delete(each)
      failed.delete(each)
      if (failed.size === 0) waitMs = retryMs.first
      if (behind.size === 0) onEmpty?.()
    } catch (error) {
      failed.add(each)
      toRetry.push(each)
      if (retry !== undefined) return
      log.warn({ err: error }, "decisions that were answered wait to be stored")
      retry = setTimeout(sendAgain, waitMs * (0.5 + Math.random()))
    } finally {
      each.tried.resolve()
    }
  }

  function sendAgain(): void {
    const again = toRetry
    toRetry = []
    retry = undefined
    waitMs = Math.min(waitMs * 2, retryMs.most)
    for (const each of again) void send(each)
  }

  return {
    async store(made, signal) {
      if (waiting >= maxWaiting) {
        throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "the store of decisions" })
      }
      waiting += 1
      sendGathered()
      try {
        return await group.add({ ...made, isAnswered: false }, signal)
      } finally {
        waiting -= 1
      }
    },
    storeBehind(made) {
      if (!keepsUp()) return false
      const item = { ...made, isAnswered: true }
      const each = { item, since: performance.now(), tried: Promise.withResolvers<void>() }
      behind.add(each)
      gathered.push(each)
      if (gathered.length >= maxGathered) sendGathered()
      else gathering ??= setTimeout(sendGathered, gatherMs)
      return true
    },
    async tried(workspaceId) {
      const own = [...behind].filter(({ item }) => item.workspaceId === workspaceId)
      if (own.length === 0) return
      sendGathered()
      await Promise.all(own.map(({ tried }) => tried.promise))
    },
    async [Symbol.asyncDispose]() {
      isEnding = true
      sendGathered()
      if (behind.size > 0) await emptied()
      clearTimeout(retry)
      for (const { item } of behind) {
        log.error(factsOf(item), "a decision was answered and may not be stored")
      }
      await group[Symbol.asyncDispose]()
    },
  }

  async function emptied(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    onEmpty = resolve
    const limit = setTimeout(resolve, drainMs)
    await promise
    clearTimeout(limit)
  }
}

/** What the orchestrator's row of the verdict holds too. */
function factsOf({ workspaceId, decision }: DecisionItem): Record<string, unknown> {
  const facts: (keyof NewDecision)[] = [
    "decision_id",
    "verdict",
    "policy_version",
    "content_digest",
    "run_id",
    "step_index",
  ]
  return { workspaceId, ...Object.fromEntries(facts.map((fact) => [fact, decision[fact]])) }
}
