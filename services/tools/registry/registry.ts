/**
 * The moving part of the registry.
 *
 * Owns: one loop per provider, which asks it for its tools at start and from time to time, and
 * sooner with back-off while it is away.
 * States of a loop: asking → waiting → asking …, until the service stops.
 *
 * Invariants:
 * 1. A provider that is away, or answers nonsense, stops neither the service nor another provider.
 * 2. Nothing is asked inside a transaction.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Client } from "@connectrpc/connect"
import type { ToolProviderService } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { actingAs, serviceSubject } from "../../../mesh/identity.ts"
import type { Runtime } from "../../../mesh/service.ts"
import type { Catalogue, FoundTool } from "./catalogue.ts"
import { createReadings, type Readings } from "./readings.ts"
import { planSync, type SyncPlan } from "./sync-plan.ts"
import {
  insertProviders,
  insertQuarantined,
  insertTool,
  knownVersions,
  lockProvider,
  markOffered,
  recordFailedRefresh,
  recordRefresh,
} from "./tool-store.ts"

/** How a provider is asked, whatever carries it. */
export type ProviderClient = Pick<
  Client<typeof ToolProviderService>,
  "listTools" | "executeTool" | "getOutcome"
>

export interface RegistryDeps {
  readonly database: Database
  readonly runtime: Runtime
  readonly catalogue: Catalogue
  readonly providers: ReadonlyMap<string, ProviderClient>
  /** Of those, whose tools may change without that anybody has looked at them. */
  readonly strangers: ReadonlySet<string>
  readonly refreshMs: number
}

export interface Registry extends AsyncDisposable {
  start(signal: AbortSignal): Promise<void>
  /** Asks a provider now, because its tools may have changed. */
  refresh(provider: string): void
  /** Whether the deployment has a provider of this name. */
  isConfigured(provider: string): boolean
  /** What an offered tool's name means, where that is remembered. */
  known(name: string, version: string): FoundTool | undefined
  /** What a name means now; undefined when nobody offers it. Throws AMBIGUOUS_TOOL. */
  resolve(name: string, version: string, signal: AbortSignal): Promise<FoundTool | undefined>
}

const listTimeoutMs = 10_000
const maxToolsPerProvider = 1_000
const firstRetryMs = 200
const minAskAgainMs = 500

export function createRegistry(deps: RegistryDeps): Registry {
  const { database, catalogue, providers } = deps
  const names = [...providers.keys()]
  const stopping = new AbortController()
  const asking = new Map<string, Promise<boolean>>()
  const lastAsked = new Map<string, number>()
  const away = new Set(names)
  const readings = createReadings()
  const loops: Promise<void>[] = []
  let refreshes = 0

  /** Asks a provider, once at a time. True when its answer was stored. */
  function ask(name: string): Promise<boolean> {
    const running = asking.get(name)
    if (running !== undefined) return running
    lastAsked.set(name, performance.now())
    const refresh = refreshProvider({ ...deps, readings }, name, stopping.signal)
      .then((isDone) => {
        if (isDone) refreshes++
        if (isDone) catalogue.forgetNames()
        if (isDone) away.delete(name)
        else away.add(name)
        return isDone
      })
      .finally(() => asking.delete(name))
    asking.set(name, refresh)
    return refresh
  }

  async function keepFresh(name: string): Promise<void> {
    let failures = 0
    while (!stopping.signal.aborted) {
      failures = (await ask(name)) ? 0 : failures + 1
      await sleep(waitMs(failures, deps.refreshMs), undefined, { signal: stopping.signal }).catch(
        () => undefined,
      )
    }
  }

  /** A tool may be missing only because its provider came up later than this service. */
  async function askThoseAway(): Promise<void> {
    const now = performance.now()
    const due = [...away].filter(
      (name) =>
        asking.has(name) ||
        now - (lastAsked.get(name) ?? Number.NEGATIVE_INFINITY) >= minAskAgainMs,
    )
    await Promise.all(due.map(ask))
  }

  return {
    async start() {
      await database.shared((tx) => insertProviders(tx, names), { name: "insert providers" })
      loops.push(...names.map(keepFresh))
    },
    refresh(provider) {
      if (!stopping.signal.aborted) void ask(provider)
    },
    isConfigured: (provider) => providers.has(provider),
    known(name, version) {
      const found = catalogue.known(name, version)
      return found?.row.offered === true ? found : undefined
    },
    async resolve(name, version, signal) {
      const seen = refreshes
      const found = catalogue.known(name, version) ?? (await catalogue.find(name, version))
      if (found !== undefined) return found
      signal.throwIfAborted()
      await askThoseAway()
      return refreshes === seen ? undefined : catalogue.find(name, version)
    },
    async [Symbol.asyncDispose]() {
      stopping.abort()
      await Promise.all([...loops, ...asking.values()])
    },
  }
}

/** Never rejects: what goes wrong is stored, logged, and tried again later (1). */
async function refreshProvider(
  deps: RegistryDeps & { readonly readings: Readings },
  name: string,
  signal: AbortSignal,
): Promise<boolean> {
  const { database, runtime, providers, strangers, readings } = deps
  try {
    const client = providers.get(name)
    if (client === undefined) throw new Error(`provider ${name} is not configured`)
    const { tools } = await client.listTools(
      {},
      actingAs(serviceSubject("tools", ""), { signal, timeoutMs: listTimeoutMs }),
    )
    if (tools.length > maxToolsPerProvider) {
      const maximum = String(maxToolsPerProvider)
      throw new RunwardenError("LIMIT_EXCEEDED", { limit: "tools of a provider", maximum })
    }
    const read = readings.of(name, tools)
    const { plan, isNew } = await database.shared(
      async (tx) => {
        await lockProvider(tx, name)
        const plan = planSync(await knownVersions(tx, name), read)
        for (const tool of plan.inserts)
          await insertTool(tx, name, tool, { isTrusted: !strangers.has(name) })
        const isNew = new Set<string>()
        for (const tool of plan.quarantined) {
          const isFirst = await insertQuarantined(tx, name, tool, "definition_changed")
          if (isFirst) isNew.add(tool.digest)
        }
        await markOffered(tx, name, plan.offered, { activatesNew: !strangers.has(name) })
        await recordRefresh(tx, name, plan.refused)
        return { plan, isNew }
      },
      { signal, name: "refresh provider" },
    )
    logPlan(runtime, name, plan, isNew)
    return true
  } catch (error) {
    if (signal.aborted) return false
    await recordFailure(deps, name, error)
    return false
  }
}

function logPlan(
  { log }: Runtime,
  provider: string,
  plan: SyncPlan,
  isNew: ReadonlySet<string>,
): void {
  for (const { name, version, digest } of plan.inserts) {
    log.info({ provider, tool: name, version, digest }, "tool taken")
  }
  for (const { name, version, digest } of plan.quarantined) {
    if (!isNew.has(digest)) continue
    log.warn({ provider, tool: name, version, digest }, "changed definition quarantined")
  }
}

async function recordFailure(deps: RegistryDeps, provider: string, error: unknown): Promise<void> {
  const reason = reasonOf(error) ?? "INTERNAL"
  const { database, runtime } = deps
  runtime.log.warn({ provider, reason, err: error }, "provider not refreshed")
  try {
    await database.shared((tx) => recordFailedRefresh(tx, provider, reason), {
      name: "record failed refresh",
    })
  } catch (cause) {
    runtime.log.warn({ provider, err: cause }, "failed refresh not recorded")
  }
}

/** Up to a quarter of jitter, so that replicas do not ask in step; full jitter while it is away. */
function waitMs(failures: number, refreshMs: number): number {
  if (failures === 0) return refreshMs * (0.75 + Math.random() * 0.25)
  return firstRetryMs + Math.random() * Math.min(refreshMs, firstRetryMs * 2 ** failures)
}
