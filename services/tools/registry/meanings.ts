/**
 * What a tool's name means in a workspace: the version that the workspace has chosen, or else the
 * one that its deployment uses.
 *
 * 1. A name without a version means what the workspace has chosen, also where the deployment uses
 *    none; a version that its provider does not offer any more is still what it means, and cannot run.
 * 2. The names of the deployment's providers are theirs: a workspace's own never stands for one of
 *    them. What a workspace added is found in that workspace alone.
 * 3. A version that nobody has looked at may be read, and not run, also where a plan names it.
 */
import { RunwardenError } from "../../../mesh/errors.ts"
import type { OwnCatalogue } from "../providers/own-catalogue.ts"
import type { FoundTool } from "./catalogue.ts"
import type { ChoiceBook, Choices } from "./choices.ts"
import { fullNameOf } from "./pinned-tool.ts"
import type { Registry } from "./registry.ts"
import { isInUse, isReviewed } from "./tool-review.ts"

/** A tool as a workspace sees it. */
export interface Meaning extends FoundTool {
  readonly isInUse: boolean
  readonly mayRun: boolean
}

export interface Meanings {
  /** What a name means, where that is remembered. */
  known(workspaceId: string, name: string, version: string): Meaning | undefined
  /** What a name means now; undefined when it means nothing. Throws AMBIGUOUS_TOOL. */
  resolve(
    workspaceId: string,
    name: string,
    version: string,
    signal: AbortSignal,
  ): Promise<Meaning | undefined>
}

/** What workspaces' own providers offer. */
export type OwnTools = Pick<OwnCatalogue, "known" | "find">

export function createMeanings(
  registry: Pick<Registry, "known" | "resolve" | "isConfigured">,
  book: Pick<ChoiceBook, "known" | "of">,
  own: OwnTools,
): Meanings {
  /** Whether a name can mean a tool of a provider that the workspace added. */
  function mayBeOwn(name: string, { providers }: Choices): boolean {
    if (providers.size === 0) return false
    const provider = providerIn(name)
    if (provider === undefined) return true
    return providers.has(provider) && !registry.isConfigured(provider) // (2)
  }

  async function lookUp(
    workspaceId: string,
    choices: Choices,
    [name, version]: readonly [string, string],
    signal: AbortSignal,
  ): Promise<FoundTool | undefined> {
    if (!mayBeOwn(name, choices)) return registry.resolve(name, version, signal)
    const mine = await own.find(workspaceId, name, version)
    if (providerIn(name) !== undefined) return mine ?? undefined
    const isMine = mine !== null && !registry.isConfigured(mine.row.provider)
    const theirs = await registry.resolve(name, version, signal)
    if (!isMine) return theirs
    if (theirs !== undefined)
      onlyOne(
        name,
        [theirs, mine].map(({ row }) => fullNameOf(row)),
      )
    return mine
  }

  return {
    known(workspaceId, name, version) {
      const choices = book.known(workspaceId)
      if (choices === undefined) return undefined
      if (version === "" && chosenAs(choices, name).length > 0) return undefined
      if (!mayBeOwn(name, choices)) {
        const found = registry.known(name, version)
        return found === undefined ? undefined : meaningOf(found, choices)
      }
      const mine = own.known(workspaceId, name, version)
      if (mine === undefined) return undefined
      const isFull = providerIn(name) !== undefined
      if (mine !== null && !isFull) return undefined
      const found = mine === null && !isFull ? registry.known(name, version) : mine
      return found == null ? undefined : meaningOf(found, choices)
    },

    async resolve(workspaceId, name, version, signal) {
      const choices = await book.of(workspaceId)
      const chosen = version === "" ? chosenAs(choices, name) : []
      if (chosen.length === 0) {
        const found = await lookUp(workspaceId, choices, [name, version], signal)
        return found === undefined ? undefined : meaningOf(found, choices)
      }
      const used = name.includes("/")
        ? undefined
        : await lookUp(workspaceId, choices, [name, ""], signal)
      const fullName = onlyOne(name, used === undefined ? chosen : [...chosen, used.tool.fullName])
      const chosenVersion = choices.versions.get(fullName) ?? ""
      const found = await lookUp(workspaceId, choices, [fullName, chosenVersion], signal)
      return found === undefined ? undefined : meaningOf(found, choices)
    },
  }
}

/** The provider that a full name names; undefined for a short one. */
function providerIn(name: string): string | undefined {
  const slash = name.indexOf("/")
  return slash < 0 ? undefined : name.slice(0, slash)
}

/** Full names of the tools that a workspace has chosen a version of, and that a name may mean. */
function chosenAs({ versions }: Choices, name: string): readonly string[] {
  if (versions.size === 0) return []
  if (name.includes("/")) return versions.has(name) ? [name] : []
  return [...versions.keys()].filter((fullName) => fullName.endsWith(`/${name}`))
}

function onlyOne(tool: string, fullNames: readonly string[]): string {
  const [first, ...others] = new Set(fullNames)
  if (first !== undefined && others.length === 0) return first
  const candidates = [first, ...others].sort().join(", ")
  throw new RunwardenError("AMBIGUOUS_TOOL", { tool, candidates })
}

function meaningOf({ row, tool }: FoundTool, choices: Choices): Meaning {
  const mayRun = row.offered && isReviewed(row, choices) // (3)
  return { row, tool, isInUse: isInUse(row, choices), mayRun }
}
