import { createPublicKey, randomBytes } from "node:crypto"
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { z } from "zod"
import { serviceNames } from "../../mesh/identity.ts"
import {
  encodePrivateKey,
  encodeTrustedKeys,
  generateMeshKeys,
  type MeshKeys,
  privateKeySetting,
} from "../../mesh/keys.ts"

const keysSchema = z.record(z.enum(serviceNames), privateKeySetting)

/**
 * The keys of local mode, made when they are first asked for and kept in the data folder, so that a
 * provider which was told the public one still knows the mesh after a restart.
 */
export function readLocalKeys(dataFolder: string): MeshKeys {
  const file = path.join(dataFolder, "mesh-keys.json")
  const found = readIfThere(file) ?? makeOnce(file, freshKeys)
  const keys = Object.entries(keysSchema.parse(JSON.parse(found))) as [
    (typeof serviceNames)[number],
    z.infer<typeof privateKeySetting>,
  ][]
  return {
    private: new Map(keys),
    trusted: new Map(keys.map(([name, key]) => [name, createPublicKey(key)])),
  }
}

/**
 * What local mode encrypts the credentials of providers with (`TOOLS_CREDENTIAL_KEYS`), made and kept
 * beside the keys of the mesh.
 */
export function readLocalCredentialKeys(dataFolder: string): string {
  const file = path.join(dataFolder, "credential-keys")
  return readIfThere(file) ?? makeOnce(file, () => `local:${randomBytes(32).toString("base64")}`)
}

function freshKeys(): string {
  const encoded = [...generateMeshKeys().private].map(([name, key]) => [
    name,
    encodePrivateKey(key),
  ])
  return JSON.stringify(Object.fromEntries(encoded))
}

/** What a provider needs in its environment to trust this mesh. Nothing of it is secret. */
export function providerEnvironment({ trusted }: MeshKeys): string {
  const toolsOnly = new Map([...trusted].filter(([name]) => name === "tools"))
  return `RUNWARDEN_TRUSTED_KEYS=${encodeTrustedKeys(toolsOnly)}`
}

/** Linked into place when it is whole: whoever comes second takes what the first one made. */
function makeOnce(file: string, make: () => string): string {
  mkdirSync(path.dirname(file), { recursive: true })
  const own = `${file}.${process.pid}`
  writeFileSync(own, make(), { mode: 0o600 })
  try {
    linkSync(own, file)
  } catch (error) {
    if (!isCode(error, "EEXIST")) throw error
  } finally {
    rmSync(own)
  }
  return readFileSync(file, "utf8")
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8")
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined
    throw error
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code
}
