/**
 * Owns: the groups in which the ledger's rows are written and read: claims before calls are sent,
 * outcomes after them.
 *
 * 1. A claim that got no answer is asked for again under the same id, so that it finds its own row:
 *    a database that restarts in between neither loses a call nor leaves one in doubt.
 * 2. What is not recorded has to be found out again by the effect class, for an unsafe call perhaps
 *    by a person: so recording is tried for a while, whether the caller is still there or not.
 * 3. A large result goes alone: those that are small do not wait behind it.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../../../mesh/database.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { createGroup } from "../../../mesh/group.ts"
import type { Runtime } from "../../../mesh/service.ts"
import {
  type Claim,
  type ClaimItem,
  claimExecutions,
  lookAtExecutions,
  type Settled,
  type SettleItem,
  settleExecutions,
} from "./execution-group-store.ts"
import type { DecidingRow, ExecutionKey } from "./execution-store.ts"

export interface LedgerWriter extends AsyncDisposable {
  claim(item: ClaimItem): Promise<Claim>
  /** The row of a key that is taken. */
  look(key: ExecutionKey): Promise<DecidingRow | undefined>
  settle(item: SettleItem): Promise<Settled>
}

const maxTries = 6
const pauseMs = 50
const maxGroupedBytes = 16_384

export function createLedgerWriter(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly leaseMs: number
}): LedgerWriter {
  const { database, runtime, leaseMs } = deps
  const stack = new AsyncDisposableStack()
  const claims = stack.use(
    createGroup<ClaimItem, Claim>({
      name: "claim executions",
      run: (items) => claimExecutions(database, items, leaseMs),
    }),
  )
  const looks = stack.use(
    createGroup<ExecutionKey, DecidingRow | undefined>({
      name: "look at executions",
      run: (items) => lookAtExecutions(database, items),
    }),
  )
  const outcomes = stack.use(
    createGroup<SettleItem, Settled>({
      name: "settle executions",
      run: (items) => settleExecutions(database, items),
    }),
  )

  async function settleAlone(item: SettleItem): Promise<Settled> {
    const [settled] = await settleExecutions(database, [item])
    return settled
  }

  return {
    claim: (item) => insist(() => claims.add(item), isAway), // (1)
    look: (key) => insist(() => looks.add(key), isAway),
    async settle(item) {
      const isLarge = item.result !== null && item.result.length > maxGroupedBytes // (3)
      try {
        return await insist(() => (isLarge ? settleAlone(item) : outcomes.add(item)), always) // (2)
      } catch (error) {
        const { tool, state, workspaceId } = item
        runtime.log.error({ err: error, tool, state, workspaceId }, "outcome not recorded")
        throw error
      }
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** Tries again for about three seconds, as long as what fails may pass. */
async function insist<T>(work: () => Promise<T>, mayPass: (error: unknown) => boolean): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      if (tries >= maxTries || !mayPass(error)) throw error
      await sleep(pauseMs * 2 ** tries * (0.5 + Math.random() / 2))
    }
  }
}

function isAway(error: unknown): boolean {
  return reasonOf(error) === "DEPENDENCY_UNAVAILABLE"
}

function always(): boolean {
  return true
}
