/**
 * Who stands at the gate: the API key of a request becomes a principal.
 *
 * Owns: a cache of what live keys allow, and the keys whose use is still to be recorded.
 * States of a key here: unknown → being read → held for at most `cacheMs` → unknown.
 *
 * 1. Every refusal is the same UNAUTHENTICATED, and a well-formed unknown key costs the same two
 *    reads as a revoked one.
 * 2. What is held is never older than `cacheMs`, nor does it outlive the key's own expiry.
 * 3. After `forget` returns, nothing that was read before it is given out for that workspace: a
 *    read that was under way is answered to those who asked and not kept.
 * 4. No text of a key is kept or logged: entries are found by its SHA-256.
 */
import { timingSafeEqual } from "node:crypto"
import type { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { hashKey, isWellFormedKey } from "./api-key.ts"
import { findClaim, findCredential, recordUse } from "./api-key-store.ts"
import { toRole } from "./member.ts"

/** Who was authenticated. */
export type Principal = MemberPrincipal | OperatorPrincipal

/** An actor in the one workspace that its key belongs to. */
export interface MemberPrincipal {
  readonly kind: "member"
  readonly workspaceId: string
  readonly actorId: string
  readonly keyId: string
  /** Undefined where the actor is no member any more. */
  readonly role: Role | undefined
  /** SHA-256 (hex) of the key, by which it is looked at again. */
  readonly keyHash: string
}

/** An operator of the deployment. */
export interface OperatorPrincipal {
  readonly kind: "operator"
}

export interface Authenticator {
  /** Throws UNAUTHENTICATED for anything but a live key. */
  authenticate(header: Headers): Promise<Principal>
  /** Looks at the key of a principal again, for calls that last. */
  recheck(principal: Principal): Promise<Principal>
  /** Forgets what is held of a workspace: a key or a membership has changed. */
  forget(workspaceId: string): void
  /** Writes down which keys were used. */
  flushUse(): Promise<void>
}

interface Entry {
  readonly principal: Promise<MemberPrincipal>
  /** Undefined while it is being read. */
  workspaceId: string | undefined
  until: number
}

const noWorkspace = "00000000-0000-0000-0000-000000000000"
const cacheSize = 10_000
const keyMaxLength = 256

/** Creates the authenticator of one gateway. */
export function createAuthenticator(deps: {
  readonly database: Database
  readonly cacheMs: number
  readonly operatorKeyHash: Buffer | undefined
}): Authenticator {
  const { database, cacheMs, operatorKeyHash } = deps
  const entries = new Map<string, Entry>()
  const used = new Map<string, Set<string>>()

  async function read(keyHash: string): Promise<{ principal: MemberPrincipal; lifeMs: number }> {
    const hash = Buffer.from(keyHash, "hex")
    const claim = await database.worker([], (tx) => findClaim(tx, hash), {
      name: "find key",
      isOneRead: true,
    })
    const { workspaceId, keyId } = claim ?? { workspaceId: noWorkspace, keyId: noWorkspace }
    const row = await database.tenant(workspaceId, (tx) => findCredential(tx, workspaceId, keyId), {
      name: "read key",
      isOneRead: true,
    })
    if (claim === undefined || row === undefined) throw new RunwardenError("UNAUTHENTICATED")
    const { actorId, expiresInMs } = row
    const role = row.role === null ? undefined : toRole(row.role)
    return {
      principal: { kind: "member", workspaceId, keyId, actorId, role, keyHash },
      lifeMs: Math.min(cacheMs, expiresInMs ?? cacheMs),
    }
  }

  /** Concurrent requests with one key share one read. */
  function lookUp(keyHash: string): Promise<MemberPrincipal> {
    const startedAt = performance.now()
    const held = entries.get(keyHash)
    if (held !== undefined && held.until > startedAt) return held.principal
    entries.delete(keyHash)
    makeRoom()
    const principal = read(keyHash).then(
      (found) => {
        entry.workspaceId = found.principal.workspaceId
        entry.until = startedAt + found.lifeMs
        return found.principal
      },
      (error: unknown) => {
        if (entries.get(keyHash) === entry) entries.delete(keyHash)
        throw error
      },
    )
    const entry: Entry = { principal, workspaceId: undefined, until: Number.POSITIVE_INFINITY }
    entries.set(keyHash, entry)
    return principal
  }

  function makeRoom(): void {
    if (entries.size < cacheSize) return
    const now = performance.now()
    for (const [hash, entry] of entries) if (entry.until <= now) entries.delete(hash)
    const oldest = entries.keys().next()
    if (entries.size >= cacheSize && oldest.done !== true) entries.delete(oldest.value)
  }

  function noteUse({ workspaceId, keyId }: MemberPrincipal): void {
    const keys = used.get(workspaceId)
    if (keys === undefined) used.set(workspaceId, new Set([keyId]))
    else keys.add(keyId)
  }

  return {
    async authenticate(header) {
      const key = presentedKey(header)
      const hash = hashKey(key)
      if (operatorKeyHash !== undefined && timingSafeEqual(hash, operatorKeyHash)) {
        return { kind: "operator" }
      }
      if (!isWellFormedKey(key)) throw new RunwardenError("UNAUTHENTICATED")
      const principal = await lookUp(hash.toString("hex"))
      noteUse(principal)
      return principal
    },

    async recheck(principal) {
      return principal.kind === "operator" ? principal : await lookUp(principal.keyHash)
    },

    forget(workspaceId) {
      for (const [hash, entry] of entries) {
        const isUnderWay = entry.workspaceId === undefined
        if (isUnderWay || entry.workspaceId === workspaceId) entries.delete(hash)
      }
    },

    async flushUse() {
      const batch = [...used]
      used.clear()
      for (const [workspaceId, keyIds] of batch) {
        await database.tenant(workspaceId, (tx) => recordUse(tx, workspaceId, [...keyIds]), {
          name: "record use",
        })
      }
    },
  }
}

/** The one key that the headers carry; two that differ are none. */
function presentedKey(header: Headers): string {
  const bearer = /^bearer +(\S+)$/i.exec(header.get("authorization") ?? "")?.[1]
  const direct = header.get("x-api-key")?.trim()
  const hasOther = header.has("authorization") && bearer === undefined
  const key = bearer ?? direct
  if (key === undefined || hasOther || key.length > keyMaxLength) {
    throw new RunwardenError("UNAUTHENTICATED")
  }
  if (direct !== undefined && direct !== key) throw new RunwardenError("UNAUTHENTICATED")
  return key
}
