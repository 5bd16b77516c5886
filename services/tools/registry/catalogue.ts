/**
 * The tools that names and digests mean, remembered.
 *
 * 1. A definition that was taken never changes, so what a digest means is remembered for as long as
 *    there is room.
 * 2. What a name means may change with every refresh, here or at another replica: it is remembered
 *    for a second, and forgotten when a refresh here ends. What is not found is asked for each time.
 * 3. Whoever asks for a name while it is being read shares the answer, unless a refresh has ended
 *    since the reading began.
 */
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { createExpiringMap, type ExpiringMap, monotonicClock } from "../../../mesh/expiring-map.ts"
import { fullNameOf, PinnedTool } from "./pinned-tool.ts"
import { findPinnedTool, findToolsNamed, type ToolRow } from "./tool-store.ts"

/** What a name means at the moment: the row tells whether it is offered and active. */
export interface FoundTool {
  readonly row: ToolRow
  readonly tool: PinnedTool
}

export interface Catalogue {
  /** What a name means, where that is remembered. */
  known(name: string, version: string): FoundTool | undefined
  /** What a name means now; undefined when it means nothing. Throws AMBIGUOUS_TOOL. */
  find(name: string, version: string): Promise<FoundTool | undefined>
  /** The tool of a digest, where that is remembered. */
  knownPinned(digest: string, fullName: string): PinnedTool | undefined
  /** The tool of a digest, whether it is offered still or not; undefined when there is none. */
  pinned(digest: string, fullName?: string): Promise<PinnedTool | undefined>
  /** Forgets what names mean. */
  forgetNames(): void
}

const nameMs = 1_000
const maxNames = 5_000
const maxPinned = 1_000

export function createCatalogue(database: Database, providers: readonly string[]): Catalogue {
  const tools = new Map<string, PinnedTool>()
  let names = createExpiringMap<FoundTool>(monotonicClock, maxNames)
  let finding = new Map<string, Promise<FoundTool | undefined>>()

  async function find(
    name: string,
    version: string,
    into: ExpiringMap<FoundTool>,
  ): Promise<FoundTool | undefined> {
    const found = await database.shared((tx) => findToolsNamed(tx, providers, name, version), {
      name: "find tool",
    })
    const [row, second] = found
    if (row === undefined) return undefined
    if (second !== undefined) {
      const candidates = found.map(fullNameOf).join(", ")
      throw new RunwardenError("AMBIGUOUS_TOOL", { tool: name, candidates })
    }
    const meant = { row, tool: keep(row) }
    into.set(nameKey(name, version), meant, performance.now() + nameMs) // (2)
    return meant
  }

  function keep(row: ToolRow): PinnedTool {
    const key = pinKey(row.digest, fullNameOf(row))
    const held = tools.get(key)
    if (held !== undefined) return held // (1)
    const [oldest] = tools.size < maxPinned ? [] : tools.keys()
    if (oldest !== undefined) tools.delete(oldest)
    const tool = new PinnedTool(row)
    tools.set(key, tool)
    return tool
  }

  return {
    known: (name, version) => names.get(nameKey(name, version)),
    find(name, version) {
      const key = nameKey(name, version)
      const running = finding.get(key)
      if (running !== undefined) return running // (3)
      const into = { names, finding }
      const found = find(name, version, into.names).finally(() => into.finding.delete(key))
      finding.set(key, found)
      return found
    },
    knownPinned: (digest, fullName) => tools.get(pinKey(digest, fullName)),
    async pinned(digest, fullName) {
      const [provider, name] = fullName?.split("/", 2) ?? []
      if (fullName !== undefined && name === undefined) return undefined
      const row = await database.shared((tx) => findPinnedTool(tx, digest, provider, name), {
        name: "find pinned tool",
      })
      return row === undefined ? undefined : keep(row)
    },
    forgetNames() {
      names = createExpiringMap<FoundTool>(monotonicClock, maxNames)
      finding = new Map()
    },
  }
}

function nameKey(name: string, version: string): string {
  return `${name}@${version}`
}

function pinKey(digest: string, fullName: string): string {
  return `${digest} ${fullName}`
}
