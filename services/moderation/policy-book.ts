/**
 * The compiled policies of all workspaces.
 *
 * Owns a bounded cache of compiled versions, and of which version each workspace was last seen to
 * be judged by.
 *
 * 1. A version never changes, so a compiled one is never stale; the oldest used leave first.
 * 2. The remembered active version is a guess that saves a query. Storing a decision checks it in
 *    the same statement, so a stale guess costs a second try and never decides.
 * 3. A version that cannot be loaded or compiled is an error of its own kind, never another version.
 */
import type { Database } from "../../mesh/database.ts"
import type { ShippedPolicies } from "./default-policy.ts"
import { compilePolicy, type Policy } from "./policy.ts"
import { type FullVersionRow, findActive, findVersion } from "./policy-store.ts"
import { readRules, toRules } from "./rule-message.ts"
import { inSlices } from "./slices.ts"

/** There is no version of this name in the workspace. */
export class UnknownPolicyVersion extends Error {
  override readonly name = "UnknownPolicyVersion"
}

export interface PolicyBook {
  /** The version that judges where none was activated. */
  readonly defaultVersion: string
  /** The version that judges the workspace, as last seen; asks the database the first time. */
  activeVersion(workspaceId: string, signal: AbortSignal): Promise<string>
  /** Corrects what was last seen. */
  noteActive(workspaceId: string, policyVersion: string): void
  /** The compiled version. Throws `UnknownPolicyVersion` or `InvalidPolicy`. */
  load(workspaceId: string, policyVersion: string, signal: AbortSignal): Promise<Policy>
}

export const compileLimitMs = 5_000
const maxCompiled = 256
const maxRemembered = 100_000

export function createPolicyBook(deps: {
  readonly database: Database
  readonly shipped: ShippedPolicies
}): PolicyBook {
  const { database, shipped } = deps
  const own = new Map<string, Policy>()
  const active = new Map<string, string>()
  const byName = new Map(shipped.map(({ message, policy }) => [message.policyVersion, policy]))
  const defaultVersion = (shipped.at(-1) ?? shipped[0]).message.policyVersion
  const noteActive = (workspaceId: string, policyVersion: string) => {
    remember(active, workspaceId, policyVersion, maxRemembered)
  }
  return {
    defaultVersion,
    noteActive,
    async activeVersion(workspaceId, signal) {
      const seen = active.get(workspaceId)
      if (seen !== undefined) return seen
      const row = await database.tenant(workspaceId, (tx) => findActive(tx, workspaceId), {
        signal,
        name: "findActive",
      })
      const version = row?.policy_version ?? defaultVersion
      noteActive(workspaceId, version)
      return version
    },
    async load(workspaceId, policyVersion, signal) {
      const key = `${workspaceId}/${policyVersion}`
      const compiled = byName.get(policyVersion) ?? own.get(key)
      if (compiled !== undefined) return compiled
      const row = await fetchVersion(database, workspaceId, policyVersion, signal)
      const policy = await inSlices(compilePolicy(policyVersion, toRules(readRules(row.rules))), {
        signal,
        limitMs: compileLimitMs,
      })
      remember(own, key, policy, maxCompiled)
      return policy
    },
  }
}

/** Splits `name@3`; undefined where it is no policy version. */
export function splitVersion(
  policyVersion: string,
): { readonly name: string; readonly version: number } | undefined {
  const [, name, version] = /^([a-z0-9-]+)@([1-9]\d{0,8})$/.exec(policyVersion) ?? []
  return name === undefined ? undefined : { name, version: Number(version) }
}

async function fetchVersion(
  database: Database,
  workspaceId: string,
  policyVersion: string,
  signal: AbortSignal,
): Promise<FullVersionRow> {
  const parts = splitVersion(policyVersion)
  const row =
    parts === undefined
      ? undefined
      : await database.tenant(
          workspaceId,
          (tx) => findVersion(tx, workspaceId, parts.name, parts.version),
          { signal, name: "findVersion" },
        )
  if (row === undefined) throw new UnknownPolicyVersion(policyVersion)
  return row
}

// A Map keeps the order of insertion, so the first key is the one used longest ago.
function remember<T>(map: Map<string, T>, key: string, value: T, max: number): void {
  map.delete(key)
  map.set(key, value)
  if (map.size <= max) return
  const [oldest] = map.keys()
  if (oldest !== undefined) map.delete(oldest)
}
