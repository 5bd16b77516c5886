import { join } from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type Database, openDatabase } from "../../mesh/database.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { testDatabase, testRuntime, until } from "../../mesh/testing.ts"
import { mintKey } from "./api-key.ts"
import { revokeKeysOf } from "./api-key-store.ts"
import { createAuthenticator } from "./authenticator.ts"
import { ensureWorkspace } from "./bootstrap.ts"
import { deleteMember } from "./member-store.ts"

const stack = new AsyncDisposableStack()
let database: Database

beforeAll(async () => {
  const config = stack.use(await testDatabase("gateway"))
  const migrations = join(import.meta.dirname, "migrations")
  database = stack.use(openDatabase(config, { runtime: testRuntime("gateway"), migrations }))
})
afterAll(() => stack.disposeAsync())

async function addKey() {
  const [workspaceId, actorId] = [newId(), newId()]
  const members = [{ actorId, displayName: "Ann", role: Role.ADMIN }]
  const { secrets } = await ensureWorkspace(database, { workspaceId, displayName: "W", members })
  const header = new Headers({ "x-api-key": secrets.get(actorId) ?? "" })
  return { workspaceId, actorId, header }
}

/** A database that counts what is read, and holds every answer back until it is let go. */
function slow() {
  const answer = Promise.withResolvers<void>()
  let reads = 0
  const held: Database = {
    ...database,
    async tenant(workspaceId, work, options) {
      reads += 1
      const result = await database.tenant(workspaceId, work, options)
      await answer.promise
      return result
    },
  }
  return { held, letGo: answer.resolve, reads: () => reads }
}

function authenticatorOf(database: Database) {
  return createAuthenticator({ database, cacheMs: 5_000, operatorKeyHash: undefined })
}

test("what was read before a key was revoked is given to nobody who asks after it", async () => {
  const { workspaceId, actorId, header } = await addKey()
  const { held, letGo, reads } = slow()
  const authenticator = authenticatorOf(held)
  const early = authenticator.authenticate(header)
  await until(() => reads() === 1)
  await database.tenant(workspaceId, (tx) => revokeKeysOf(tx, workspaceId, actorId))
  authenticator.forget(workspaceId)
  const late = authenticator.authenticate(header)
  letGo()
  expect(await late.then(() => "let in", reasonOf)).toBe("UNAUTHENTICATED")
  await early
  const last = authenticator.authenticate(header)
  expect(await last.then(() => "let in", reasonOf)).toBe("UNAUTHENTICATED")
})

test("a hundred requests at once with one key cost one read, and later ones none", async () => {
  const { header } = await addKey()
  const { held, letGo, reads } = slow()
  letGo()
  const authenticator = authenticatorOf(held)
  await Promise.all(Array.from({ length: 100 }, () => authenticator.authenticate(header)))
  await authenticator.authenticate(header)
  expect(reads()).toBe(1)
})

test("an unknown key costs the reads of a revoked one; a typo costs none", async () => {
  const { workspaceId, actorId, header } = await addKey()
  await database.tenant(workspaceId, (tx) => revokeKeysOf(tx, workspaceId, actorId))
  const { held, letGo, reads } = slow()
  letGo()
  const authenticator = authenticatorOf(held)
  const counts: number[] = []
  const typo = `${mintKey().secret.slice(0, -1)}!`
  for (const key of [header.get("x-api-key") ?? "", mintKey().secret, typo]) {
    const before = reads()
    const answer = authenticator.authenticate(new Headers({ "x-api-key": key }))
    expect(await answer.then(() => "let in", reasonOf)).toBe("UNAUTHENTICATED")
    counts.push(reads() - before)
  }
  expect(counts).toEqual([1, 1, 0])
})

test("a key that outlives its membership has no role", async () => {
  const { workspaceId, actorId, header } = await addKey()
  await database.tenant(workspaceId, (tx) => deleteMember(tx, workspaceId, actorId))
  const principal = await authenticatorOf(database).authenticate(header)
  expect(principal).toMatchObject({ kind: "member", workspaceId, actorId, role: undefined })
})
