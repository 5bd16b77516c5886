/**
 * The tools of workspaces' own providers, by name and by digest, remembered: what catalogue.ts is for
 * the deployment's.
 *
 * 1. Everything is remembered for its workspace, and found in no other.
 * 2. What a name means, also that it means nothing, is remembered for a second, so that the names of
 *    the deployment's tools cost a workspace with providers of its own no statement each time.
 */
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { createExpiringMap, type ExpiringMap, monotonicClock } from "../../../mesh/expiring-map.ts"
import type { FoundTool } from "../registry/catalogue.ts"
import { fullNameOf, PinnedTool } from "../registry/pinned-tool.ts"
import type { ToolRow } from "../registry/tool-store.ts"
import { findOwnPinnedTool, findOwnToolsNamed } from "./own-tool-store.ts"

export interface OwnCatalogue {
  /** What a name means, where that is remembered; null for nothing. Throws AMBIGUOUS_TOOL. */
  known(workspaceId: string, name: string, version: string): FoundTool | null | undefined
  find(workspaceId: string, name: string, version: string): Promise<FoundTool | null>
  /** The tool of a digest, where that is remembered. */
  knownPinned(workspaceId: string, digest: string, fullName: string): PinnedTool | undefined
  /** The tool of a digest, whether its provider is there still or not. */
  pinned(workspaceId: string, digest: string, fullName?: string): Promise<PinnedTool | undefined>
  /** Forgets what names mean. */
  forgetNames(): void
}

const nameMs = 1_000
const maxNames = 5_000
const maxPinned = 1_000

export function createOwnCatalogue(database: Database): OwnCatalogue {
  const pinned = createExpiringMap<PinnedTool>(() => 0, maxPinned)
  let names = createExpiringMap<readonly FoundTool[]>(monotonicClock, maxNames)

  function keep(workspaceId: string, row: ToolRow): PinnedTool {
    const key = pinKey(workspaceId, row.digest, fullNameOf(row))
    const tool = pinned.get(key) ?? new PinnedTool(row)
    pinned.set(key, tool, 1)
    return tool
  }

  async function read(
    into: ExpiringMap<readonly FoundTool[]>,
    workspaceId: string,
    name: string,
    version: string,
  ): Promise<readonly FoundTool[]> {
    const rows = await database.tenant(
      workspaceId,
      (tx) => findOwnToolsNamed(tx, workspaceId, name, version),
      { name: "find own tool" },
    )
    const found = rows.map((row) => ({ row, tool: keep(workspaceId, row) }))
    into.set(nameKey(workspaceId, name, version), found, performance.now() + nameMs)
    return found
  }

  return {
    known(workspaceId, name, version) {
      const found = names.get(nameKey(workspaceId, name, version))
      return found === undefined ? undefined : onlyOne(name, found)
    },
    async find(workspaceId, name, version) {
      const found =
        names.get(nameKey(workspaceId, name, version)) ??
        (await read(names, workspaceId, name, version))
      return onlyOne(name, found)
    },
    knownPinned: (workspaceId, digest, fullName) =>
      pinned.get(pinKey(workspaceId, digest, fullName)),
    async pinned(workspaceId, digest, fullName) {
      const [provider, name] = fullName?.split("/", 2) ?? []
      const row = await database.tenant(
        workspaceId,
        (tx) => findOwnPinnedTool(tx, workspaceId, digest, provider, name),
        { name: "find own pinned tool" },
      )
      return row === undefined ? undefined : keep(workspaceId, row)
    },
    forgetNames() {
      names = createExpiringMap(monotonicClock, maxNames)
    },
  }
}

function onlyOne(name: string, found: readonly FoundTool[]): FoundTool | null {
  const [first, second] = found
  if (first === undefined) return null
  if (second === undefined) return first
  const candidates = found.map(({ tool }) => tool.fullName).join(", ")
  throw new RunwardenError("AMBIGUOUS_TOOL", { tool: name, candidates })
}

function nameKey(workspaceId: string, name: string, version: string): string {
  return `${workspaceId.toLowerCase()} ${name}@${version}`
}

function pinKey(workspaceId: string, digest: string, fullName: string): string {
  return `${workspaceId.toLowerCase()} ${digest} ${fullName}`
}
