import type { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { hashKey, isWellFormedKey, mintKey, prefixOf } from "./api-key.ts"
import { findKey, insertApiKey } from "./api-key-store.ts"
import { fromRole } from "./member.ts"
import { insertMember } from "./member-store.ts"
import { insertWorkspace } from "./workspace-store.ts"

/** A workspace that must be there, such as the one of a demonstration. */
export interface WorkspaceSeed {
  readonly workspaceId: string
  readonly displayName: string
  readonly members: readonly MemberSeed[]
}

export interface MemberSeed {
  readonly actorId: string
  readonly displayName: string
  readonly role: Role
  readonly kind?: "user" | "service"
  /**
   * The secret of the member's key, as an earlier call gave it. Without one, or with one that is
   * revoked by now, a key is made.
   */
  readonly apiKeySecret?: string
}

/** What is there now. */
export interface SeededWorkspace {
  /** The secret of a live key of each member, by actor id. What was made just now is shown once. */
  readonly secrets: ReadonlyMap<string, string>
}

/**
 * Creates the workspace, members and keys that are missing, in one transaction, and leaves those
 * that exist as they are. Throws for a secret that is not of the form of an API key.
 */
export function ensureWorkspace(database: Database, seed: WorkspaceSeed): Promise<SeededWorkspace> {
  const { workspaceId } = seed
  return database.tenant(
    workspaceId,
    async (tx) => {
      await insertWorkspace(tx, workspaceId, seed.displayName)
      const secrets = new Map<string, string>()
      for (const member of seed.members) {
        const { actorId, displayName, kind = "user" } = member
        const role = fromRole(member.role)
        await insertMember(tx, workspaceId, { actorId, displayName, kind, role })
        secrets.set(actorId, await ensureKey(tx, workspaceId, member))
      }
      return { secrets }
    },
    { name: "ensure workspace" },
  )
}

async function ensureKey(tx: Tx, workspaceId: string, member: MemberSeed): Promise<string> {
  const { actorId, apiKeySecret: given } = member
  if (given !== undefined && !isWellFormedKey(given)) {
    throw new TypeError(`the secret for ${member.displayName} is no API key`)
  }
  const found = given === undefined ? undefined : await findKey(tx, workspaceId, hashKey(given))
  if (given !== undefined && found?.isLive === true) return given
  const secret = found === undefined && given !== undefined ? given : mintKey().secret
  const hash = hashKey(secret)
  await insertApiKey(tx, workspaceId, {
    keyId: newId(),
    actorId,
    displayName: "Seeded key",
    prefix: prefixOf(secret),
    hash,
    expireTime: undefined,
  })
  return secret
}
