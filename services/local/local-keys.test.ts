import { mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { afterAll, expect, test } from "vitest"
import { createSigner, createVerifier } from "../../mesh/hop-tokens.ts"
import { memberSubject, serviceNames } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { providersEnvironment } from "./local.ts"
import { providerEnvironment, readLocalCredentialKeys, readLocalKeys } from "./local-keys.ts"

const folder = mkdtempSync(path.join(tmpdir(), "runwarden-keys-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test("the keys of the first start are those of every later one, and only ours to read", async () => {
  const dataFolder = path.join(folder, "data")
  const first = readLocalKeys(dataFolder)
  const later = readLocalKeys(dataFolder)
  expect([...later.trusted.keys()].sort()).toEqual([...serviceNames].sort())
  const key = first.private.get("tools")
  if (key === undefined) throw new Error("no key")
  const subject = memberSubject(newId(), "somebody", 2)
  const token = await createSigner("tools", key).sign(subject, "projects")
  const caller = await createVerifier("projects", later.trusted).verify(token)
  expect(caller).toEqual({ ...subject, issuer: "tools" })
  const { mode } = statSync(path.join(dataFolder, "mesh-keys.json"))
  if (process.platform !== "win32") expect(mode & 0o777).toBe(0o600)
})

test("the key of credentials is made once as well, and only ours to read", () => {
  const dataFolder = path.join(folder, "credentials")
  const first = readLocalCredentialKeys(dataFolder)
  expect(first).toMatch(/^local:[A-Za-z0-9+/]{43}=$/)
  expect(readLocalCredentialKeys(dataFolder)).toBe(first)
  const { mode } = statSync(path.join(dataFolder, "credential-keys"))
  if (process.platform !== "win32") expect(mode & 0o777).toBe(0o600)
})

test("a provider is told the public key of the tools service and nothing else", () => {
  const keys = readLocalKeys(path.join(folder, "told"))
  const [name, value] = providerEnvironment(keys).split(/=(.*)/)
  expect(name).toBe("RUNWARDEN_TRUSTED_KEYS")
  const spki = keys.trusted.get("tools")?.export({ format: "der", type: "spki" })
  expect(JSON.parse(value ?? "")).toEqual({ tools: spki?.toString("base64") })
})

test("a provider that is added does not push out those that are built in", () => {
  const providers = (env: Record<string, string>) => providersEnvironment(env).TOOLS_PROVIDERS
  expect(providers({})).toBeUndefined()
  expect(providers({ RUNWARDEN_PROVIDERS: "orders=a:1" })).toBe(
    "projects=127.0.0.1:7106,retrieval=127.0.0.1:7104,orders=a:1",
  )
  expect(providers({ TOOLS_PROVIDERS: "x=b:2", RUNWARDEN_PROVIDERS: "orders=a:1" })).toBe(
    "x=b:2,orders=a:1",
  )
})
