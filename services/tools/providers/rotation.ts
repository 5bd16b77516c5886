/**
 * Brings credentials under the first key: at the start, and from then on whenever some are found under
 * another that the configuration has.
 *
 * 1. A provider's credentials are encrypted anew in one transaction, by whoever holds them: replicas
 *    share the work, and none of them is ever without a key that opens.
 * 2. What does not open stays as it is, for a person to set anew.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../../../mesh/database.ts"
import type { Runtime } from "../../../mesh/service.ts"
import {
  countKeys,
  findOldSeals,
  lockForRotation,
  readKeyUses,
  readOldSeals,
  replaceSeal,
} from "./credential-store.ts"
import { type Keyring, SealBroken } from "./keyring.ts"
import type { ProviderKey } from "./provider-store.ts"

export interface Rotation extends AsyncDisposable {
  start(): void
}

const pauseMs = 60_000
const atOnce = 50

export function createRotation(deps: {
  readonly database: Database
  readonly runtime: Runtime
  readonly keyring: Keyring | undefined
}): Rotation {
  const { database, runtime, keyring } = deps
  const stopping = new AbortController()
  let loop: Promise<void> | undefined

  async function keepGoing(ring: Keyring): Promise<void> {
    while (!stopping.signal.aborted) {
      await rotateAll(database, runtime, ring, stopping.signal).catch((error: unknown) =>
        runtime.log.warn({ err: error }, "credentials not encrypted anew"),
      )
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined)
    }
  }

  return {
    start() {
      if (keyring !== undefined) loop = keepGoing(keyring)
    },
    async [Symbol.asyncDispose]() {
      stopping.abort()
      await loop
    },
  }
}

/** Encrypts anew what is under an older key, until nothing is left that can be. */
export async function rotateAll(
  database: Database,
  runtime: Pick<Runtime, "log">,
  ring: Keyring,
  signal: AbortSignal,
): Promise<void> {
  const { primaryId, keyIds } = ring
  let moved = 0
  for (let last: ProviderKey | undefined; !signal.aborted; ) {
    const after = last
    const found = await database.control(
      [],
      (tx) => findOldSeals(tx, { primaryId, keyIds, after, limit: atOnce }),
      { name: "find old credentials" },
    )
    for (const key of found) moved += await rotate(database, runtime, ring, key)
    last = found.at(-1)
    if (last === undefined) break
  }
  if (moved === 0) return
  const uses = await database.control([], readKeyUses, { name: "read key uses" })
  const left = uses.filter(({ key_id }) => key_id !== primaryId)
  runtime.log.info({ key: primaryId, moved, left }, "credentials encrypted anew")
}

async function rotate(
  database: Database,
  runtime: Pick<Runtime, "log">,
  ring: Keyring,
  key: ProviderKey,
): Promise<number> {
  return database.worker(
    [key.workspaceId],
    async (tx) => {
      if (!(await lockForRotation(tx, key))) return 0
      let moved = 0
      for (const row of await readOldSeals(tx, key, ring.primaryId)) {
        const place = { ...key, name: row.name }
        try {
          const sealed = ring.seal(place, ring.open(place, row).reveal())
          await replaceSeal(tx, key, { name: row.name, ...sealed })
          moved++
        } catch (error) {
          if (!(error instanceof SealBroken)) throw error
          runtime.log.warn({ ...place, key: row.key_id }, "a credential does not open") // (2)
        }
      }
      if (moved > 0) await countKeys(tx, key)
      return moved
    },
    { name: "encrypt credentials anew" },
  )
}
