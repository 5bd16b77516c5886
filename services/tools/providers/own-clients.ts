/**
 * Owns: the clients of workspaces' own providers, each made when it is first used and ended when
 * nobody has used it for a while.
 *
 * 1. A client is of one provider at one revision: what was changed is read anew, and the old client
 *    ends once nobody uses it.
 * 2. Without its credentials, or with some that do not open, a provider is not spoken with at all.
 * 3. What a provider was shown is in none of its answers (redaction.ts), and what it says in its errors
 *    stays where it came in.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Database } from "../../../mesh/database.ts"
import { type Reason, RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { neverSent } from "../../../mesh/never-sent.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { ProviderClient } from "../registry/registry.ts"
import { type CredentialRow, readCredentialRows } from "./credential-store.ts"
import { type Keyring, SealBroken } from "./keyring.ts"
import { findProviderById, type OwnProviderRow, type ProviderKey } from "./provider-store.ts"
import { withoutSecrets } from "./redaction.ts"
import type { Secret } from "./secret.ts"

/** A provider as it is to be spoken with. */
export interface OpenedProvider {
  readonly key: ProviderKey
  readonly row: OwnProviderRow
  readonly credentials: ReadonlyMap<string, Secret>
}

export interface OwnClientsDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly keyring: Keyring | undefined
  /** Makes what speaks with a provider. */
  open(provider: OpenedProvider): ProviderClient & AsyncDisposable
}

export interface OwnClients extends AsyncDisposable {
  /**
   * Uses the client of a provider, as it is at this revision. Rejects with an error that says that
   * nothing was sent where there is none, and with CREDENTIALS_UNAVAILABLE (2).
   */
  use<T>(
    key: ProviderKey,
    revision: number,
    work: (client: ProviderClient, row: OwnProviderRow) => Promise<T>,
  ): Promise<T>
  /** Ends the client of a provider that is there no more. */
  forget(key: ProviderKey): void
}

interface Held {
  readonly revision: number
  readonly opening: Promise<{
    readonly client: ProviderClient
    readonly row: OwnProviderRow
    readonly end: () => Promise<void>
  }>
  users: number
  usedAt: number
  isOver: boolean
}

/** After these no repeat helps. */
const finalReasons: ReadonlySet<Reason | undefined> = new Set<Reason>([
  "CREDENTIALS_UNAVAILABLE",
  "PROVIDER_REMOVED",
])

const idleMs = 300_000
const maxHeld = 1_000
const drainMs = 2_000

export function createOwnClients(deps: OwnClientsDeps): OwnClients {
  const { database, runtime } = deps
  const held = new Map<string, Held>()
  const ending = new Set<Promise<void>>()
  const sweeper = setInterval(() => sweep(), idleMs / 5).unref()
  let isEnded = false

  async function open(key: ProviderKey, revision: number) {
    const { row, sealed } = await database.tenant(
      key.workspaceId,
      async (tx) => ({
        row: await findProviderById(tx, key),
        sealed: await readCredentialRows(tx, key),
      }),
      { name: "open provider" },
    )
    if (row === undefined) throw new RunwardenError("PROVIDER_REMOVED", { provider: "" })
    if (row.revision < revision) throw new Error("the provider is older than it was")
    const credentials = unseal(deps.keyring, key, row.name, sealed)
    const made = deps.open({ key, row, credentials })
    return {
      row,
      client: withoutSecrets(made, [...credentials.values()]),
      end: async () => made[Symbol.asyncDispose](),
    }
  }

  function heldBy(key: ProviderKey, revision: number): Held {
    const id = idOf(key)
    const known = held.get(id)
    if (known !== undefined && known.revision >= revision) return known
    if (known !== undefined) retire(id, known)
    if (isEnded) throw new RunwardenError("SHUTTING_DOWN", { service: "tools" })
    if (held.size >= maxHeld) sweep(0, held.size - maxHeld + 1)
    const fresh: Held = {
      revision,
      opening: open(key, revision),
      users: 0,
      usedAt: performance.now(),
      isOver: false,
    }
    fresh.opening.catch(() => {
      if (held.get(id) === fresh) held.delete(id)
    })
    held.set(id, fresh)
    return fresh
  }

  /** Takes a client away from who comes next, and ends it with its last user. */
  function retire(id: string, one: Held): void {
    if (held.get(id) === one) held.delete(id)
    if (one.isOver) return
    one.isOver = true
    if (one.users === 0) end(one)
  }

  function end(one: Held): void {
    const ended: Promise<void> = one.opening
      .then((opened) => opened.end())
      .catch((error: unknown) => runtime.log.debug({ err: error }, "provider not closed"))
      .finally(() => ending.delete(ended))
    ending.add(ended)
  }

  function sweep(olderThanMs = idleMs, atMost = Number.POSITIVE_INFINITY): void {
    const before = performance.now() - olderThanMs
    const idle = [...held]
      .filter(([, one]) => one.users === 0 && one.usedAt <= before)
      .sort(([, one], [, other]) => one.usedAt - other.usedAt)
    for (const [id, one] of idle.slice(0, atMost)) retire(id, one)
  }

  return {
    async use(key, revision, work) {
      const one = heldBy(key, revision)
      one.users++
      try {
        const { client, row } = await one.opening.catch((error: unknown) => {
          throw finalReasons.has(reasonOf(error)) ? error : unopened(error)
        })
        return await work(client, row)
      } finally {
        one.users--
        one.usedAt = performance.now()
        if (one.isOver && one.users === 0) end(one)
      }
    },
    forget(key) {
      const one = held.get(idOf(key))
      if (one !== undefined) retire(idOf(key), one)
    },
    async [Symbol.asyncDispose]() {
      isEnded = true
      clearInterval(sweeper)
      for (const [id, one] of held) {
        retire(id, one)
        if (one.users > 0) end(one)
      }
      const limit = new AbortController()
      const late = sleep(drainMs, undefined, { signal: limit.signal }).catch(() => undefined)
      await Promise.race([Promise.all(ending), late])
      limit.abort()
    },
  }
}

/** All credentials of a provider. Throws CREDENTIALS_UNAVAILABLE unless every one of them opens (2). */
export function unseal(
  keyring: Keyring | undefined,
  key: ProviderKey,
  provider: string,
  sealed: readonly CredentialRow[],
): ReadonlyMap<string, Secret> {
  try {
    return new Map(
      sealed.map((row) => {
        if (keyring === undefined) throw new SealBroken("TOOLS_CREDENTIAL_KEYS is not set")
        return [row.name, keyring.open({ ...key, name: row.name }, row)]
      }),
    )
  } catch (error) {
    if (!(error instanceof SealBroken)) throw error
    throw new RunwardenError("CREDENTIALS_UNAVAILABLE", { provider, cause: error.message })
  }
}

function unopened(cause: unknown): Error {
  return neverSent(
    new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "the provider" }, { cause }),
  )
}

function idOf({ workspaceId, providerId }: ProviderKey): string {
  return `${workspaceId} ${providerId}`
}
