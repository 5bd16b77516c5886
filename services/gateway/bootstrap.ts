import type { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { hashKey, isWellFormedKey, mintKey, prefixOf } from "./api-key.ts"
import { findKey, hasLiveKey, insertApiKey } from "./api-key-store.ts"
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
  /** The secret of the member's key; without one, a key is made where the member has none. */
  readonly apiKeySecret?: string
}

/** A member that is there now. */
export interface SeededMember {
  readonly actorId: string
  /** The secret: the one handed in, or the one that was made just now, which is shown once. */
  readonly apiKeySecret: string | undefined
}

/**
 * Creates the workspace, members and keys that are missing, in one transaction, and leaves those
 * that exist as they are. Throws for a secret that is not of the form of an API key.
 */
export function ensureWorkspace(
  database: Database,
  seed: WorkspaceSeed,
): Promise<readonly SeededMember[]> {
  const { workspaceId } = seed
  return database.tenant(
    workspaceId,
    async (tx) => {
      await insertWorkspace(tx, workspaceId, seed.displayName)
      const members: SeededMember[] = []
      for (const member of seed.members) {
        const { actorId, displayName, kind = "user" } = member
        const role = fromRole(member.role)
        await insertMember(tx, workspaceId, { actorId, displayName, kind, role })
        const apiKeySecret = await ensureKey(tx, workspaceId, member)
        members.push({ actorId, apiKeySecret })
      }
      return members
    },
    { name: "ensure workspace" },
  )
}

async function ensureKey(
  tx: Tx,
  workspaceId: string,
  member: MemberSeed,
): Promise<string | undefined> {
  const { actorId, apiKeySecret: given } = member
  if (given !== undefined && !isWellFormedKey(given)) {
    throw new TypeError(`the secret for ${member.displayName} is no API key`)
  }
  if (given === undefined && (await hasLiveKey(tx, workspaceId, actorId))) return undefined
  const secret = given ?? mintKey().secret
  const hash = hashKey(secret)
  if (await findKey(tx, workspaceId, hash)) return secret
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
