/**
 * A group whose workspaces cannot spoil each other's runs for long.
 *
 * 1. A run that fails is split until the guilty item is alone, which its neighbours pay for. So the
 *    items of a workspace that has failed lately are gathered apart, with others of that kind.
 * 2. What fails for everybody, or because the caller has gone, is nobody's fault.
 */
import { reasonOf } from "./errors.ts"
import { createExpiringMap, monotonicClock } from "./expiring-map.ts"
import { createGroup, type Group, type GroupOptions } from "./group.ts"

export interface FairGroupOptions<I, R> extends GroupOptions<I, R> {
  workspaceOf(item: I): string
}

/** How long a workspace is kept apart after it has failed. */
const apartMs = 10_000
/** As many workspaces as are kept apart at a time. */
const maxApart = 10_000
const innocent = new Set(["DEPENDENCY_UNAVAILABLE", "SHUTTING_DOWN", "CANCELLED"])

export function createFairGroup<I, R>(options: FairGroupOptions<I, R>): Group<I, R> {
  const together = createGroup(options)
  const apart = createGroup(options)
  const failed = createExpiringMap<true>(monotonicClock, maxApart)
  return {
    add(item, signal) {
      const workspaceId = options.workspaceOf(item)
      const group = failed.get(workspaceId) === undefined ? together : apart
      return group.add(item, signal).catch((error: unknown) => {
        if (!innocent.has(reasonOf(error) ?? "")) {
          failed.set(workspaceId, true, performance.now() + apartMs)
        }
        throw error
      })
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([together, apart].map((group) => group[Symbol.asyncDispose]()))
    },
  }
}
