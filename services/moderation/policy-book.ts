/**
 * The compiled policies of all workspaces, and which of them judges whom.
 *
 * Owns a bounded cache of compiled versions, and of which version each workspace was last seen to
 * be judged by.
 *
 * 1. A version never changes, so a compiled one is never stale; the oldest used leave first.
 * 2. What was seen is never replaced by what was true before it: activations are counted, and a
 *    lower count counts only where it was asked for after the higher one was heard of, as it is when
 *    the database was set back.
 * 3. A version is in force here while it was seen active less than `inForceMs` ago, counted from
 *    before the question was sent. So a version that was replaced elsewhere decides for that long at
 *    most; whatever is older has to be asked about, which storing a decision does by itself.
 * 4. A version that cannot be loaded or compiled is an error of its own kind, never another version.
 */
import type { Database } from "../../mesh/database.ts"
import type { ShippedPolicies } from "./default-policy.ts"
import { type Classifiers, compilePolicy, type Policy } from "./policy.ts"
import {
  type ActiveVersion,
  type FullVersionRow,
  findActive,
  findVersion,
  toActiveVersion,
} from "./policy-store.ts"
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
  activeVersion(workspaceId: string, signal: AbortSignal): string | Promise<string>
  /** Whether the version was seen to judge the workspace so lately that it may decide unasked. */
  isInForce(workspaceId: string, policyVersion: string): boolean
  /** Takes what was seen; `askedAt` is when the question was sent, by `performance.now()`. */
  note(workspaceId: string, active: ActiveVersion, askedAt: number): void
  /** The compiled version. Throws `UnknownPolicyVersion` or `InvalidPolicy`. */
  load(workspaceId: string, policyVersion: string, signal: AbortSignal): Policy | Promise<Policy>
}

/** For how long a version decides unasked after it was seen active. */
export const inForceMs = 500
export const compileLimitMs = 5_000
const maxCompiled = 256
const maxRemembered = 100_000

/** What was seen: asked for last then, and first heard of then. */
interface Seen extends ActiveVersion {
  readonly askedAt: number
  readonly heardAt: number
}

export function createPolicyBook(deps: {
  readonly database: Database
  readonly shipped: ShippedPolicies
  readonly classifiers: Classifiers
}): PolicyBook {
  const { database, shipped, classifiers } = deps
  const own = new Map<string, Policy>()
  const seen = new Map<string, Seen>()
  const byName = new Map(shipped.map(({ message, policy }) => [message.policyVersion, policy]))
  const defaultVersion = (shipped.at(-1) ?? shipped[0]).message.policyVersion

  const note: PolicyBook["note"] = (workspaceId, active, askedAt) => {
    const before = seen.get(workspaceId)
    let now: Seen = { ...active, askedAt, heardAt: performance.now() }
    if (before?.revision === active.revision) {
      now = { ...before, askedAt: Math.max(before.askedAt, askedAt) }
    } else if (before !== undefined && before.revision > active.revision) {
      if (askedAt < before.heardAt) return
    }
    remember(seen, workspaceId, now, maxRemembered)
  }
  const ask = async (workspaceId: string, signal: AbortSignal): Promise<string> => {
    const askedAt = performance.now()
    const row = await database.tenant(workspaceId, (tx) => findActive(tx, workspaceId), {
      signal,
      name: "findActive",
    })
    const none = { policyVersion: defaultVersion, revision: 0 }
    note(workspaceId, row === undefined ? none : toActiveVersion(row), askedAt)
    return seen.get(workspaceId)?.policyVersion ?? defaultVersion
  }
  const compile = async (
    workspaceId: string,
    policyVersion: string,
    signal: AbortSignal,
  ): Promise<Policy> => {
    const row = await fetchVersion(database, workspaceId, policyVersion, signal)
    const steps = compilePolicy(policyVersion, toRules(readRules(row.rules)), classifiers)
    const policy = await inSlices(steps, { signal, limitMs: compileLimitMs })
    remember(own, `${workspaceId}/${policyVersion}`, policy, maxCompiled)
    return policy
  }
  return {
    defaultVersion,
    note,
    activeVersion: (workspaceId, signal) =>
      seen.get(workspaceId)?.policyVersion ?? ask(workspaceId, signal),
    isInForce(workspaceId, policyVersion) {
      const last = seen.get(workspaceId)
      return last?.policyVersion === policyVersion && performance.now() - last.askedAt < inForceMs
    },
    load: (workspaceId, policyVersion, signal) =>
      byName.get(policyVersion) ??
      own.get(`${workspaceId}/${policyVersion}`) ??
      compile(workspaceId, policyVersion, signal),
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
