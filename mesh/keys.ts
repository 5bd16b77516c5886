import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto"
import { z } from "zod"
import { type ServiceName, serviceNames } from "./identity.ts"

/** The keys by which the services of one mesh know each other. */
export interface MeshKeys {
  /** The private key of each service. */
  readonly private: ReadonlyMap<ServiceName, KeyObject>
  /** The public keys, as every service trusts them. */
  readonly trusted: ReadonlyMap<ServiceName, KeyObject>
}

/** Makes a fresh Ed25519 key for every service. */
export function generateMeshKeys(): MeshKeys {
  const pairs = serviceNames.map((name) => [name, generateKeyPairSync("ed25519")] as const)
  return {
    private: new Map(pairs.map(([name, pair]) => [name, pair.privateKey])),
    trusted: new Map(pairs.map(([name, pair]) => [name, pair.publicKey])),
  }
}

/** A private key as it stands in `<SERVICE>_IDENTITY_KEY`: base64 of its PKCS #8 DER form. */
export function encodePrivateKey(key: KeyObject): string {
  return key.export({ format: "der", type: "pkcs8" }).toString("base64")
}

/** Public keys as they stand in `RUNWARDEN_TRUSTED_KEYS`: a JSON object of name to base64 SPKI DER. */
export function encodeTrustedKeys(keys: ReadonlyMap<ServiceName, KeyObject>): string {
  return JSON.stringify(
    Object.fromEntries(
      [...keys].map(([name, key]) => [
        name,
        key.export({ format: "der", type: "spki" }).toString("base64"),
      ]),
    ),
  )
}

/** Reads `<SERVICE>_IDENTITY_KEY`; anything but an Ed25519 private key is refused. */
export const privateKeySetting = z.string().transform((text, context) => {
  try {
    const key = createPrivateKey({ key: Buffer.from(text, "base64"), format: "der", type: "pkcs8" })
    if (key.asymmetricKeyType === "ed25519") return key
  } catch {
    // Falls through to the one message.
  }
  context.addIssue(
    "must be the base64 of an Ed25519 private key in PKCS #8 (npm run keys makes one)",
  )
  return z.NEVER
})

/** Reads `RUNWARDEN_TRUSTED_KEYS`; unknown service names and other kinds of key are refused. */
export const trustedKeysSetting = z.string().transform((text, context) => {
  try {
    const entries = z.partialRecord(z.enum(serviceNames), z.string()).parse(JSON.parse(text))
    return new Map(
      Object.entries(entries).map(([name, encoded]) => {
        const der = Buffer.from(encoded, "base64")
        const key = createPublicKey({ key: der, format: "der", type: "spki" })
        if (key.asymmetricKeyType !== "ed25519") throw new Error("not Ed25519")
        return [name as ServiceName, key] as const
      }),
    )
  } catch {
    context.addIssue(
      "must be a JSON object of service name to base64 Ed25519 public key (npm run keys makes one)",
    )
    return z.NEVER
  }
})
