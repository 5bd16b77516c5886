/**
 * The keys that credentials are encrypted with, AES-256-GCM with a nonce of 96 random bits each.
 *
 * 1. What is sealed opens at its own place alone: workspace, provider, name and key are part of it. A
 *    row that was moved, or changed by one bit, does not open.
 * 2. The first key seals; every key opens.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from "node:crypto"
import { z } from "zod"
import { Secret } from "./secret.ts"

/** Where a credential belongs. */
export interface CredentialPlace {
  readonly workspaceId: string
  readonly providerId: string
  readonly name: string
}

/** A credential as it is stored. */
export interface SealedCredential {
  readonly key_id: string
  readonly nonce: Buffer
  /** Ciphertext and tag. */
  readonly sealed: Buffer
}

/** A credential that does not open; the message says why, and nothing of what it holds. */
export class SealBroken extends Error {
  override readonly name = "SealBroken"
}

export interface Keyring {
  readonly keyIds: readonly string[]
  /** The key that seals. */
  readonly primaryId: string
  seal(place: CredentialPlace, value: string): SealedCredential
  /** Throws SealBroken. */
  open(place: CredentialPlace, sealed: SealedCredential): Secret
  /** Tells equal values from others, to whoever has the key. */
  fingerprint(value: string): string
}

const algorithm = "aes-256-gcm"
const nonceBytes = 12
const tagBytes = 16

/** `id:base64` of 32 bytes, separated by commas; the first one seals. */
export const keyringSetting = z.string().transform((text, context): Keyring => {
  const keys = new Map<string, Buffer>()
  text.split(",").forEach((entry, index) => {
    const [, id, encoded = ""] =
      /^\s*([A-Za-z0-9._-]{1,64}):([A-Za-z0-9+/]{43}=)\s*$/.exec(entry) ?? []
    const key = Buffer.from(encoded, "base64")
    if (id === undefined || key.length !== 32) {
      context.addIssue(`key ${index + 1} must be id:<base64 of 32 bytes>`)
    } else if (keys.has(id)) {
      context.addIssue(`key ${id} is named twice`)
    } else {
      keys.set(id, key)
    }
  })
  return createKeyring(keys)
})

/** Of keys of 32 bytes by their ids, the one that seals first. */
export function createKeyring(keys: ReadonlyMap<string, Buffer>): Keyring {
  const [primary] = keys
  const [primaryId, primaryKey] = primary ?? ["", Buffer.alloc(0)]
  return {
    keyIds: [...keys.keys()],
    primaryId,
    seal(place, value) {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv(algorithm, primaryKey, nonce)
      cipher.setAAD(placeBytes(place, primaryId))
      const sealed = Buffer.concat([
        cipher.update(value, "utf8"),
        cipher.final(),
        cipher.getAuthTag(),
      ])
      return { key_id: primaryId, nonce, sealed }
    },
    open(place, { key_id, nonce, sealed }) {
      const key = keys.get(key_id)
      if (key === undefined) throw new SealBroken(`key ${key_id} is not in TOOLS_CREDENTIAL_KEYS`)
      try {
        const decipher = createDecipheriv(algorithm, key, nonce, { authTagLength: tagBytes })
        decipher.setAAD(placeBytes(place, key_id)) // (1)
        decipher.setAuthTag(sealed.subarray(-tagBytes))
        const text = Buffer.concat([
          decipher.update(sealed.subarray(0, -tagBytes)),
          decipher.final(),
        ])
        return new Secret(text.toString("utf8"))
      } catch {
        throw new SealBroken(
          `${place.name} is not what was stored, or key ${key_id} is another one`,
        )
      }
    },
    fingerprint: (value) => createHmac("sha256", primaryKey).update(value).digest("hex"),
  }
}

/** Unambiguous: ids are UUIDs, and neither names nor key ids hold a line break. */
function placeBytes({ workspaceId, providerId, name }: CredentialPlace, keyId: string): Buffer {
  const parts = ["runwarden credential", workspaceId.toLowerCase(), providerId.toLowerCase()]
  return Buffer.from([...parts, name, keyId].join("\n"))
}
