/**
 * Asks workspaces' own providers for their tools.
 *
 * Owns: the refreshes that run at this replica. Which provider is due stands in the database, where
 * the first replica that looks claims it for as long as a refresh may take.
 *
 * Invariants:
 * 1. A provider is asked when it was added or changed, when an admin says so, and while its tools are
 *    used; one that nobody uses is not asked, and costs nothing.
 * 2. One that is away is asked again with back-off, and given up until it is used again.
 * 3. Providers are asked side by side, few of one workspace at a time: a slow one holds up no other.
 * 4. Nothing is asked inside a transaction, and what an answer changes is stored only where the
 *    provider is still as it was when it was asked.
 */
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises"
import { create } from "@bufbuild/protobuf"
import {
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { createExpiringMap, monotonicClock } from "../../../mesh/expiring-map.ts"
import { actingAs, serviceSubject } from "../../../mesh/identity.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { readDefinition } from "../registry/definition.ts"
import { planSync } from "../registry/sync-plan.ts"
import type { OwnCatalogue } from "./own-catalogue.ts"
import type { OwnClients } from "./own-clients.ts"
import {
  insertOwnTool,
  knownOwnVersions,
  lockForRefresh,
  markOwnOffered,
  recordOwnFailure,
  recordOwnRefresh,
} from "./own-tool-store.ts"
import { claimRefreshes, endRefresh, makeDueIfOld, type ProviderKey } from "./provider-store.ts"

export interface RefresherDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly clients: OwnClients
  readonly catalogue: OwnCatalogue
  /** How old what is known of a provider's tools may be while they are used. */
  readonly refreshMs: number
}

export interface Refresher extends AsyncDisposable {
  start(): void
  /** Looks for what is due now, because something was just made due. */
  poke(): void
  /** Asks now. The versions that were not known before, as `tool@version`; undefined where it failed. */
  refresh(key: ProviderKey): Promise<readonly string[] | undefined>
  /** Says that a provider's tools are used. */
  touch(key: ProviderKey): void
}

const pollMs = 1_000
const listTimeoutMs = 10_000
const leaseMs = 30_000
const maxAtOnce = 32
const maxPerWorkspace = 2
const maxTools = 200
const firstRetryMs = 1_000
const longestRetryMs = 900_000
const maxFailures = 10
const maxTouched = 10_000

export function createRefresher(deps: RefresherDeps): Refresher {
  const { database, runtime, refreshMs } = deps
  const stopping = new AbortController()
  const running = new Map<string, Promise<readonly string[] | undefined>>()
  const touched = createExpiringMap<true>(monotonicClock, maxTouched)
  const failures = createExpiringMap<number>(monotonicClock, maxTouched)
  let loop: Promise<void> | undefined
  let wake = new AbortController()

  /** Asks a provider, once at a time. */
  function ask(key: ProviderKey, due?: string): Promise<readonly string[] | undefined> {
    const id = `${key.workspaceId} ${key.providerId}`
    const known = running.get(id)
    if (known !== undefined) return known
    const asked = askProvider(deps, key, stopping.signal).then(async (found) => {
      const failed = found === undefined ? (failures.get(id) ?? 0) + 1 : 0
      failures.set(id, failed, performance.now() + 2 * longestRetryMs)
      deps.catalogue.forgetNames()
      if (due !== undefined && !stopping.signal.aborted) await endClaim(key, due, failed)
      return found
    })
    const ended = asked.finally(() => running.delete(id))
    running.set(id, ended)
    return ended
  }

  function endClaim(key: ProviderKey, due: string, failed: number): Promise<void> {
    const end = { due, isDone: failed === 0, againMs: retryMs(failed) }
    return database
      .worker([key.workspaceId], (tx) => endRefresh(tx, key, end), { name: "end refresh" })
      .catch((error: unknown) => runtime.log.warn({ err: error }, "refresh not ended")) // its lease ends
  }

  async function lookForWork(): Promise<void> {
    const free = maxAtOnce - running.size
    if (free <= 0) return
    const limits = { limit: free, perWorkspace: maxPerWorkspace, leaseMs }
    for (const row of await claimRefreshes(database, limits)) {
      void ask({ workspaceId: row.workspace_id, providerId: row.provider_id }, row.due)
    }
  }

  async function keepLooking(): Promise<void> {
    while (!stopping.signal.aborted) {
      await lookForWork().catch((error: unknown) =>
        runtime.log.warn({ err: error }, "providers not looked for"),
      )
      await sleep(pollMs, undefined, { signal: wake.signal }).catch(() => undefined)
      if (wake.signal.aborted) wake = new AbortController()
    }
  }

  return {
    start() {
      loop = keepLooking()
    },
    poke: () => wake.abort(),
    refresh: (key) => ask(key),
    touch(key) {
      const id = `${key.workspaceId} ${key.providerId}`
      if (touched.get(id) === true || stopping.signal.aborted) return
      touched.set(id, true, performance.now() + refreshMs)
      database
        .tenant(key.workspaceId, (tx) => makeDueIfOld(tx, key, refreshMs), {
          name: "provider used",
        })
        .catch((error: unknown) => runtime.log.debug({ err: error }, "use not noted"))
    },
    async [Symbol.asyncDispose]() {
      stopping.abort()
      wake.abort()
      await Promise.all([loop, ...running.values()])
    },
  }
}

/** Never rejects: what goes wrong is stored. Undefined where it went wrong. */
async function askProvider(
  deps: RefresherDeps,
  key: ProviderKey,
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  const { clients, database, runtime } = deps
  const { workspaceId, providerId } = key
  try {
    return await clients.use(key, 1, async (client, { revision }) => {
      const subject = serviceSubject("tools", workspaceId)
      const { tools } = await client.listTools(
        {},
        actingAs(subject, { signal, timeoutMs: listTimeoutMs }),
      )
      return store(deps, key, revision, await readAll(tools, providerId), signal)
    })
  } catch (error) {
    if (signal.aborted) return undefined
    const reason = reasonOf(error) ?? "DEPENDENCY_UNAVAILABLE"
    // What a stranger says in an error is not for the log.
    runtime.log.info({ workspaceId, providerId, reason }, "workspace's provider not refreshed")
    await database
      .worker([workspaceId], (tx) => recordOwnFailure(tx, key, reason), { name: "record failure" })
      .catch((cause: unknown) => runtime.log.warn({ err: cause }, "failed refresh not recorded"))
    return undefined
  }
}

/** Reads definitions one after another, with room for other work in between. */
async function readAll(tools: readonly ToolDefinition[], providerId: string) {
  if (tools.length > maxTools) {
    const maximum = String(maxTools)
    throw new RunwardenError("LIMIT_EXCEEDED", { limit: "tools of a provider", maximum })
  }
  const read: ReturnType<typeof readDefinition>[] = []
  for (const tool of tools) {
    read.push(readDefinition(create(ToolDefinitionSchema, { ...tool, providerId })))
    await turn()
  }
  return read
}

async function store(
  { database, runtime }: RefresherDeps,
  key: ProviderKey,
  revision: number,
  read: Awaited<ReturnType<typeof readAll>>,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const { workspaceId } = key
  return database.worker(
    [workspaceId],
    async (tx) => {
      const now = await lockForRefresh(tx, key)
      if (now?.revision !== revision) return [] // (4)
      const plan = planSync(await knownOwnVersions(tx, key), read)
      for (const tool of plan.inserts) await insertOwnTool(tx, key, tool)
      await markOwnOffered(tx, key, plan.offered)
      await recordOwnRefresh(tx, key, plan.refused)
      runtime.log.debug({ ...key, taken: plan.inserts.length }, "workspace's provider refreshed")
      return plan.inserts.map(({ name, version }) => `${name}@${version}`)
    },
    { signal, name: "refresh own provider" },
  )
}

/** When to ask again; undefined for not before somebody uses it. */
function retryMs(failures: number): number | undefined {
  if (failures === 0 || failures > maxFailures) return undefined
  return Math.min(longestRetryMs, firstRetryMs * 2 ** failures) * (0.75 + Math.random() * 0.25)
}
