/**
 * Prints fresh identity keys for a mesh whose services run as processes of their own: one private
 * key per service, and the public keys that all of them trust. Keep the private ones secret.
 */
import { encodePrivateKey, encodeTrustedKeys, generateMeshKeys } from "../mesh/keys.ts"

const keys = generateMeshKeys()
for (const [service, key] of keys.private) {
  process.stdout.write(`${service.toUpperCase()}_IDENTITY_KEY=${encodePrivateKey(key)}\n`)
}
process.stdout.write(`RUNWARDEN_TRUSTED_KEYS='${encodeTrustedKeys(keys.trusted)}'\n`)
